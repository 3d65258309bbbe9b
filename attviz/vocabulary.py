"""Statistics of each token over all its occurrences in a data set: the numbers behind the bars and the clouds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from attviz.records import Analysis, Document
from attviz.spelling import special_tokens
from attviz.statistics import pool

_DOCUMENTS_AT_ONCE = 64
_HALF_CODES = 0x3C00 + 1  # float16 codes from 0.0 to 1.0; they rise with the value


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Statistics of each token over its occurrences, per layer and head.

    Attributes:
        tokens: As the tokenizer spells them, in order of first occurrence.
        count: Occurrences.
        mean: Mean diagonal.
        std: Standard deviation with ``correction=1``; NaN for a single occurrence.
        max: Largest diagonal.
        min: Smallest diagonal.
        top: Occurrences in the top third of the head's own values.
    """

    tokens: tuple[str, ...]
    count: Int[np.ndarray, " num_tokens"]
    mean: Float[np.ndarray, "num_tokens num_layers num_heads"]
    std: Float[np.ndarray, "num_tokens num_layers num_heads"]
    max: Float[np.ndarray, "num_tokens num_layers num_heads"]
    min: Float[np.ndarray, "num_tokens num_layers num_heads"]
    top: Int[np.ndarray, "num_tokens num_layers num_heads"]

    def pooled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, std and max of each token, pooled over its occurrences and all heads."""
        num_heads = self.mean.shape[1] * self.mean.shape[2]
        mean = self.mean.mean(axis=(1, 2))
        within = np.nan_to_num(self.std) ** 2 * np.maximum(self.count - 1, 0)[:, None, None]
        between = (self.mean - mean[:, None, None]) ** 2 * self.count[:, None, None]
        values = self.count * num_heads
        with np.errstate(invalid="ignore", divide="ignore"):
            std = np.sqrt((within + between).sum(axis=(1, 2)) / np.where(values > 1, values - 1, np.nan))
        return mean, std, self.max.max(axis=(1, 2))


def vocabulary(analysis: Analysis, *, special: bool = False, first: bool = True) -> Vocabulary:
    """Pool the diagonals of every token over all documents, in float64 and in two passes.

    The first pass finds the threshold of each head's top third, from a histogram of float16 values (exact for an analysis
    in float16); the second merges means and squares by Chan et al. (1979).

    Args:
        analysis: Documents of one model.
        special: Count [CLS], [SEP] and the like as well.
        first: Count position 0 as well; in a causal model it is always 1.

    Returns:
        One row per token that occurs.
    """
    places = [_kept(document, special, first) for document in analysis.documents]
    num_vectors = _num_vectors(analysis)
    threshold = _top_third(analysis.documents, places, num_vectors)
    pool = _Pool(num_vectors, threshold)
    waiting: list[tuple[list[str], np.ndarray]] = []
    for document, kept in zip(analysis.documents, places, strict=True):
        names = [document.tokens[place] for place in np.flatnonzero(kept)]
        waiting.append((names, document.diagonal.reshape(num_vectors, -1)[:, kept].T))
        if len(waiting) == _DOCUMENTS_AT_ONCE:
            pool.add(waiting)
            waiting = []
    pool.add(waiting)
    return pool.result(analysis)


def _kept(document: Document, special: bool, first: bool) -> np.ndarray:
    kept = np.ones(len(document.tokens), dtype=bool)
    if not special:
        kept &= ~special_tokens(document.tokens, document.special)
    if not first:
        kept[:1] = False
    return kept


def _num_vectors(analysis: Analysis) -> int:
    for document in analysis.documents:
        return int(document.diagonal.shape[0] * document.diagonal.shape[1])
    return 0


def _top_third(documents: Iterable[Document], places: Iterable[np.ndarray], num_vectors: int) -> Float[np.ndarray, " num_vectors"]:
    """The value above which an occurrence is in the top third of its head."""
    histogram = np.zeros((num_vectors, _HALF_CODES), dtype=np.int64)
    heads = np.arange(num_vectors)[:, None] * _HALF_CODES
    for document, kept in zip(documents, places, strict=True):
        values = document.diagonal.reshape(num_vectors, -1)[:, kept]
        codes = values.astype(np.float16).view(np.uint16).astype(np.int64)
        histogram += np.bincount((codes + heads).ravel(), minlength=histogram.size).reshape(histogram.shape)
    from_top = histogram[:, ::-1].cumsum(axis=1)[:, ::-1]  # occurrences with at least this value
    third = np.ceil(histogram.sum(axis=1, keepdims=True) / 3)
    lowest = (from_top >= np.maximum(third, 1)).sum(axis=1) - 1
    threshold: np.ndarray = np.maximum(lowest, 0).astype(np.uint16).view(np.float16).astype(np.float64)
    return threshold


class _Pool:
    """Counts, means, squared deviations and extremes, growing as new tokens appear."""

    def __init__(self, num_vectors: int, threshold: np.ndarray) -> None:
        self.index: dict[str, int] = {}
        self.threshold = threshold
        self.count = np.zeros(0, dtype=np.int64)
        self.mean, self.m2, self.max, self.min, self.top = (np.zeros((0, num_vectors)) for _ in range(5))

    def add(self, documents: list[tuple[list[str], np.ndarray]]) -> None:
        """Merge several documents, each given as (tokens, values [num_tokens, num_vectors])."""
        names = [name for tokens, _ in documents for name in tokens]
        if not names:
            return
        ids = np.array([self.index.setdefault(name, len(self.index)) for name in names])
        values = np.concatenate([rows for _, rows in documents]).astype(np.float64)
        self._grow(len(self.index))
        order = np.argsort(ids, kind="stable")
        ids, values = ids[order], values[order]
        seen, starts = np.unique(ids, return_index=True)
        count = np.diff([*starts, len(ids)])
        mean = np.add.reduceat(values, starts) / count[:, None]
        m2 = np.add.reduceat((values - np.repeat(mean, count, axis=0)) ** 2, starts)
        self._merge(seen, count, mean, m2)
        self.max[seen] = np.maximum(self.max[seen], np.maximum.reduceat(values, starts))
        self.min[seen] = np.minimum(self.min[seen], np.minimum.reduceat(values, starts))
        halves = values.astype(np.float16).astype(np.float64)
        self.top[seen] += np.add.reduceat(halves >= self.threshold, starts, dtype=np.int64)

    def _merge(self, seen: np.ndarray, count: np.ndarray, mean: np.ndarray, m2: np.ndarray) -> None:
        pooled = pool(self.count[seen][:, None], self.mean[seen], self.m2[seen], count[:, None], mean, m2)
        self.count[seen], self.mean[seen], self.m2[seen] = pooled[0][:, 0], *pooled[1:]

    def _grow(self, size: int) -> None:
        more = size - len(self.count)
        self.count = np.pad(self.count, (0, more))
        for name, fill in (("mean", 0.0), ("m2", 0.0), ("max", -np.inf), ("min", np.inf), ("top", 0.0)):
            setattr(self, name, np.pad(getattr(self, name), ((0, more), (0, 0)), constant_values=fill))

    def result(self, analysis: Analysis) -> Vocabulary:
        num_layers = len(analysis.layers)
        with np.errstate(invalid="ignore", divide="ignore"):
            std = np.sqrt(self.m2 / np.where(self.count > 1, self.count - 1, np.nan)[:, None])

        def shaped(values: np.ndarray) -> np.ndarray:
            return values.reshape(len(self.count), num_layers, -1) if len(self.count) else np.zeros((0, num_layers, 0))

        top = shaped(self.top).astype(np.int64)
        return Vocabulary(tuple(self.index), self.count, shaped(self.mean), shaped(std), shaped(self.max), shaped(self.min), top)
