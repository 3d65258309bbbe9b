"""An analysis as figures need it: pooled tokens, per-token values, and what was chosen to be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attviz.analysis.vocabulary import Vocabulary, vocabulary
from attviz.errors import ArgumentError
from attviz.records import Analysis, Document

CLOUD_WEIGHTS = ("count_top", "mean", "sum")


@dataclass
class FigureSource:
    """An analysis with what several figures need of it, computed once.

    Attributes:
        analysis: The documents.
        documents: Which of them get figures of their own, by index.
        min_count: Tokens that occur more rarely are left out of bars, clouds and similarities.
        head: (layer, head) of the token bars; None pools all heads.
        cloud_weight: What the size of a word means: one of :data:`CLOUD_WEIGHTS`.
    """

    analysis: Analysis
    documents: Sequence[int]
    min_count: int
    head: tuple[int, int] | None = None
    cloud_weight: str = "count_top"

    def __post_init__(self) -> None:
        if self.cloud_weight not in CLOUD_WEIGHTS:
            raise ArgumentError(f"cloud_weight must be one of {', '.join(map(repr, CLOUD_WEIGHTS))}; got {self.cloud_weight!r}.")
        shape = next((document.diagonal.shape[:2] for document in self.analysis.documents), (0, 0))
        if self.head is not None and not (0 <= self.head[0] < shape[0] and 0 <= self.head[1] < shape[1]):
            raise ArgumentError(
                f"layer {self.head[0]} head {self.head[1]} does not exist: there are {shape[0]} layers of {shape[1]} heads."
            )

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Statistics of every token, special ones left out, and position 0 where the first token always sees only itself."""
        return vocabulary(self.analysis, first=not self._causal)

    @cached_property
    def token_values(self) -> dict[str, np.ndarray]:
        """Mean, max and min over all heads of every token that is not special."""
        rows: dict[str, list[np.ndarray]] = {"mean": [], "max": [], "min": []}
        for document in self.analysis.documents:
            values = vectors(document)[:, ordinary(document)]
            for name, part in rows.items():
                part.append(getattr(values, name)(axis=0))
        return {name: np.concatenate([np.zeros(0), *part]) for name, part in rows.items()}

    @cached_property
    def _causal(self) -> bool:
        """Whether position 0 gives itself everything in every head, as under a causal mask."""
        firsts = [document.diagonal[..., 0] for document in self.analysis.documents[:8] if document.diagonal.shape[2] > 1]
        return bool(firsts) and all((first > 0.999).all() for first in firsts)

    @cached_property
    def frequent(self) -> np.ndarray:
        """Places in the vocabulary of the tokens that occur often enough."""
        return np.flatnonzero(self.vocabulary.count >= self.min_count)

    def bars(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, std and maximum of each token, of the chosen head or pooled over all."""
        if self.head is None:
            return self.vocabulary.pooled()
        table, (layer, head) = self.vocabulary, self.head
        return table.mean[:, layer, head], table.std[:, layer, head], table.max[:, layer, head]

    def cloud_weights(self) -> np.ndarray:
        """Weight of each token in the cloud of each head, ``[num_tokens, num_layers * num_heads]``."""
        table = self.vocabulary
        count = table.count[:, None, None]
        weights = {"count_top": table.top, "mean": table.mean, "sum": table.mean * count}[self.cloud_weight]
        flat: np.ndarray = weights.reshape(len(table.tokens), -1).astype(np.float64)
        return flat


def vectors(document: Document) -> np.ndarray:
    """Diagonal of every head, ``[num_vectors, num_tokens]``, float64."""
    values: np.ndarray = document.diagonal.reshape(math.prod(document.diagonal.shape[:2]), -1).astype(np.float64)
    return values


def ordinary(document: Document) -> np.ndarray:
    """True for tokens that are not special."""
    return np.ones(len(document.tokens), dtype=bool) if document.special is None else ~document.special
