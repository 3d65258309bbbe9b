"""The one adapter of the figures: a Capture, an Analysis or Documents as the arrays that each figure draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from attviz.documents import Diagonals, as_analysis
from attviz.errors import ArgumentError
from attviz.records import Analysis, Captured, CapturedDocument, Document
from attviz.selecting import Documents, Heads, Layers, choose_part
from attviz.spelling import readable_labels, special_tokens
from attviz.vocabulary import Vocabulary, vocabulary

CLOUD_WEIGHTS = ("count_top", "mean", "sum")
_MOST_SIMILAR_HEADS = 256
_CLOUDS = 9
_NULL_PERMUTATIONS = 5


@dataclass
class FigureSource:
    """An analysis with what several figures need, computed once.

    Attributes:
        analysis: The documents.
        documents: Indices of those that get their own figures.
        min_count: Tokens that occur more rarely are left out of bars, clouds and similarities.
        cloud_weight: What the size of a word means: one of :data:`CLOUD_WEIGHTS`.
        special: Count [CLS], [SEP] and the like.
        layers: Indices of its layers in the model; None counts them.
        heads: Indices of its heads in the model; None counts them.
    """

    analysis: Analysis
    documents: Sequence[int] = ()
    min_count: int = 1
    cloud_weight: str = "count_top"
    special: bool = False
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.cloud_weight not in CLOUD_WEIGHTS:
            raise ArgumentError(f"cloud_weight must be one of {', '.join(map(repr, CLOUD_WEIGHTS))}; got {self.cloud_weight!r}.")

    @cached_property
    def numbers(self) -> tuple[Sequence[int], Sequence[int]]:
        """Indices of layers and heads in the model: what they are called in a figure."""
        shape = next((document.diagonal.shape for document in self.analysis.documents), (0, 0))
        return (
            range(shape[0]) if self.layers is None else self.layers,
            range(shape[1]) if self.heads is None else self.heads,
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
        """Whether position 0 has weight 1 in every head, as under a causal mask."""
        firsts = [document.diagonal[..., 0] for document in self.analysis.documents[:8] if document.diagonal.shape[2] > 1]
        return bool(firsts) and all((first > 0.999).all() for first in firsts)

    @cached_property
    def frequent(self) -> np.ndarray:
        """Indices in the vocabulary of the tokens that occur often enough."""
        return np.flatnonzero(self.vocabulary.count >= self.min_count)

    def counted(self, document: Document) -> np.ndarray:
        """True for the tokens that count: all of them, or those that are not special."""
        return np.ones(len(document.tokens), dtype=bool) if self.special else ordinary(document)

    def values(self, document: Document) -> np.ndarray:
        """Diagonal of every head, ``[num_layers, num_heads, num_tokens]``, NaN where a token does not count."""
        values: np.ndarray = document.diagonal.astype(np.float64)
        values[:, :, ~self.counted(document)] = np.nan
        return values

    def head_means(self) -> np.ndarray:
        """Mean diagonal of each head over all tokens that count, ``[num_layers, num_heads]``."""
        total, count = np.zeros(()), 0
        for document in self.analysis.documents:
            kept = self.counted(document)
            total = total + document.diagonal[:, :, kept].astype(np.float64).sum(axis=2)
            count += int(kept.sum())
        if not count:
            raise ArgumentError("plots.head_map: every token is special, so no head has a mean. Pass an array of your own.")
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
        layer_numbers, head_numbers = self.numbers
        return clouds, [f"layer {layer_numbers[head // num_heads]} head {head_numbers[head % num_heads]}" for head in heads]

    def comparable(self) -> bool:
        """Whether there are two tokens, and two heads or layers, to rank."""
        return self.frequent.size > 1 and math.prod(self.vocabulary.mean.shape[1:]) > 1

    def similarity(self, names: Sequence[str] | None = None, null: float | None = None) -> tuple[np.ndarray, Sequence[str], float]:
        """AUFUJI between heads (layers, if there are too many heads) over tokens that occur often enough, names, and the null's level."""
        if not self.comparable():
            raise ArgumentError(
                "plots.head_similarity: compares how heads rank tokens, so the source needs at least two heads and two tokens."
            )
        import torch

        from attviz.metrics import fuji_matrix, fuji_null

        mean = self.vocabulary.mean[self.frequent]
        num_items, num_layers, num_heads = mean.shape
        heads = num_layers * num_heads <= _MOST_SIMILAR_HEADS
        scores = torch.from_numpy((mean.reshape(num_items, -1) if heads else mean.mean(axis=2)).T.copy())
        layer_numbers, head_numbers = self.numbers
        if heads and names is None:
            names = [f"{layer}.{head}" for layer in layer_numbers for head in head_numbers]
        names = names or [f"layer {layer}" for layer in layer_numbers]
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


def source_of(
    value: Any, who: str, layers: Layers = None, heads: Heads = None, documents: Documents = None, min_count: int = 1
) -> FigureSource | None:
    """What a figure was given, if it holds diagonals; None for an array or a mapping, which the figure draws as it is.

    Raises:
        ArgumentError: If an array comes with selectors, or they choose what does not exist.
    """
    chosen = layers is not None or heads is not None or documents is not None
    if isinstance(value, FigureSource):
        return value
    if _holds_diagonals(value):
        part = choose_part(as_analysis(value, who), layers, heads, documents, who=who)
        return FigureSource(part.analysis, min_count=min_count, layers=part.layers, heads=part.heads)
    if chosen:
        raise ArgumentError(
            f"{who}: layers=, heads= and documents= choose from a Capture, an Analysis or Documents; an array is drawn as it is."
        )
    return None


class Text(NamedTuple):
    """The one text that a figure shows.

    Attributes:
        values: Its diagonals, ``[num_layers, num_heads, num_tokens]``, special tokens missing (NaN); or the array as it was given.
        tokens: As the tokenizer spells them; None for an array without.
        document: None for an array.
        layers: Indices of its layers in the model; None for an array.
        heads: Indices of its heads in the model; None for an array.
    """

    values: Any
    tokens: Sequence[str] | None
    document: Document | None = None
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None


def text_of(
    value: Any, tokens: Sequence[str] | None, who: str, layers: Layers = None, heads: Heads = None, documents: Documents = None
) -> Text:
    """Diagonal and tokens of the one text that a figure shows, special tokens missing (NaN): pass arrays to draw them too.

    Raises:
        ArgumentError: If the source holds several texts and ``documents`` does not choose one; or as :func:`source_of`.
    """
    source = source_of(value, who, layers, heads, documents)
    if source is None:
        return Text(value, tokens)
    texts = source.analysis.documents
    if len(texts) != 1:
        raise ArgumentError(f"{who}: shows one text, but {type(value).__name__} holds {len(texts)}. Choose one, such as documents=0.")
    document = texts[0]
    return Text(source.values(document), document.tokens if tokens is None else tokens, document, *source.numbers)


def _holds_diagonals(value: Any) -> bool:
    if isinstance(value, (Captured, CapturedDocument, Document, Analysis)):
        return True
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(one, Document) for one in value)
