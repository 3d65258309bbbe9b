"""The one adapter of the figures: a Capture, an Analysis or Documents as the arrays that each figure draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from attviz.documents import Diagonals, as_analysis, only_text
from attviz.errors import ArgumentError
from attviz.records import Analysis, Captured, CapturedDocument, Document
from attviz.spelling import readable_labels, special_tokens
from attviz.vocabulary import Vocabulary, vocabulary

CLOUD_WEIGHTS = ("count_top", "mean", "sum")
_MOST_SIMILAR_HEADS = 256
_CLOUDS = 9
_NULL_PERMUTATIONS = 5


@dataclass
class FigureSource:
    """An analysis with what several figures need of it, computed once.

    Attributes:
        analysis: The documents.
        documents: Which of them get figures of their own, by index.
        min_count: Tokens that occur more rarely are left out of bars, clouds and similarities.
        head: (layer, head) of the token bars; None pools all heads.
        cloud_weight: What the size of a word means: one of :data:`CLOUD_WEIGHTS`.
        special: Count [CLS], [SEP] and the like.
    """

    analysis: Analysis
    documents: Sequence[int] = ()
    min_count: int = 1
    head: tuple[int, int] | None = None
    cloud_weight: str = "count_top"
    special: bool = False

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
        """Statistics of every token that counts, without position 0 where the first token always sees only itself."""
        return vocabulary(self.analysis, special=self.special, first=not self._causal)

    @cached_property
    def token_values(self) -> dict[str, np.ndarray]:
        """Mean, max and min over all heads of every token that counts."""
        rows: dict[str, list[np.ndarray]] = {"mean": [], "max": [], "min": []}
        for document in self.analysis.documents:
            values = vectors(document)[:, self.counted(document)]
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

    def counted(self, document: Document) -> np.ndarray:
        """True for the tokens that count: all of them, or those that are not special."""
        return np.ones(len(document.tokens), dtype=bool) if self.special else ordinary(document)

    def values(self, document: Document) -> np.ndarray:
        """Diagonal of every head, ``[num_layers, num_heads, num_tokens]``, NaN where a token does not count."""
        values: np.ndarray = document.diagonal.astype(np.float64)
        values[:, :, ~self.counted(document)] = np.nan
        return values

    def bars(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, std and maximum of each token, of the chosen head or pooled over all."""
        if self.head is None:
            return self.vocabulary.pooled()
        table, (layer, head) = self.vocabulary, self.head
        return table.mean[:, layer, head], table.std[:, layer, head], table.max[:, layer, head]

    def head_means(self) -> np.ndarray:
        """Mean diagonal of each head over all tokens that count, ``[num_layers, num_heads]``."""
        total, count = np.zeros(()), 0
        for document in self.analysis.documents:
            kept = self.counted(document)
            total = total + document.diagonal[:, :, kept].astype(np.float64).sum(axis=2)
            count += int(kept.sum())
        if not count:
            raise ArgumentError("plots: every token is special, so no head has a mean. Pass an array of your own to head_map.")
        return total / count

    def clouds(self) -> tuple[list[dict[str, float]], list[str]]:
        """Words and their weights of the heads with the largest mean diagonal, and the names of those heads."""
        words = self.vocabulary
        num_heads = words.mean.shape[2]
        strength = (words.mean * words.count[:, None, None]).sum(axis=0).ravel()
        heads = sorted(np.argsort(-strength, kind="stable")[:_CLOUDS].tolist())
        labels, weights = readable_labels(words.tokens), self.cloud_weights()
        clouds = []
        for head in heads:
            cloud: dict[str, float] = {}
            for place in self.frequent.tolist():
                cloud[labels[place]] = cloud.get(labels[place], 0.0) + float(weights[place, head])
            clouds.append(cloud)
        return clouds, [f"layer {head // num_heads} head {head % num_heads}" for head in heads]

    def comparable(self) -> bool:
        """Whether there are two tokens, and two heads or layers, to rank."""
        return self.frequent.size > 1 and math.prod(self.vocabulary.mean.shape[1:]) > 1

    def similarity(self, names: Sequence[str] | None = None, null: float | None = None) -> tuple[np.ndarray, Sequence[str], float]:
        """AUFUJI between heads (layers, where heads are too many) over the tokens that occur often enough, names, and the null's level."""
        if not self.comparable():
            raise ArgumentError("plots.head_similarity: ranks tokens in heads, so it needs at least two of each in the source.")
        import torch

        from attviz.metrics import fuji_matrix, fuji_null

        mean = self.vocabulary.mean[self.frequent]
        num_items, num_layers, num_heads = mean.shape
        heads = num_layers * num_heads <= _MOST_SIMILAR_HEADS
        scores = torch.from_numpy((mean.reshape(num_items, -1) if heads else mean.mean(axis=2)).T.copy())
        names = names or [f"{row // num_heads}.{row % num_heads}" if heads else f"layer {row}" for row in range(len(scores))]
        if null is None:
            null = float(torch.nanmean(fuji_null(scores, permutations=_NULL_PERMUTATIONS).mean))
        return fuji_matrix(scores).numpy(), names, null

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
    return ~special_tokens(document.tokens, document.special)


Drawable = Diagonals | FigureSource


def source_of(value: Any, who: str) -> FigureSource | None:
    """What a figure was given, if it holds diagonals; None for an array or a mapping, which the figure draws as it is."""
    if isinstance(value, FigureSource):
        return value
    return FigureSource(as_analysis(value, who)) if _holds_diagonals(value) else None


def text_of(value: Any, tokens: Sequence[str] | None, who: str) -> tuple[Any, Sequence[str] | None]:
    """Diagonal and tokens of the one text that a figure shows, special tokens missing (NaN): pass arrays to draw them too."""
    if not _holds_diagonals(value):
        return value, tokens
    document = only_text(value, who)
    return FigureSource(Analysis((), (document,))).values(document), document.tokens if tokens is None else tokens


def _holds_diagonals(value: Any) -> bool:
    if isinstance(value, (Captured, CapturedDocument, Document, Analysis)):
        return True
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(one, Document) for one in value)
