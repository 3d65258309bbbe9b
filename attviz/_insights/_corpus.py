"""One pass over the documents: the sums behind the sentences, the head cards, the clusters and the tables of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from attviz._insights._words import CLASSES, word_classes
from attviz.spelling import special_tokens

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from attviz.records import Document

BINS = 12  # parts of a text, for the profile by position
CONTEXTS = 6  # strongest places kept for each head


@dataclass
class Corpus:
    """Sums over all documents, special tokens left out unless said otherwise. ``row`` counts heads, layer by layer.

    Attributes:
        names: One per row, ``"L0·H3"``.
        tokens: Tokens of each document, as its tokenizer spells them.
        special: Which of them are special.
        causal: Whether token ``i`` of the document saw ``i + 1`` keys; its first token then always has weight 1 and is left out.
        mean: Mean over all rows at every token of each document, special tokens included.
        per_document: Mean of each row in each document; NaN where no token counts.
        total: Sum, count, largest and smallest value of each row.
        lifted: Sum of value times visible keys of each row, and the largest.
        marks: Sum of each row over special tokens, and their number.
        products: Sum over tokens of the product of two rows' values.
    """

    names: tuple[str, ...]
    tokens: list[tuple[str, ...]] = field(default_factory=list)
    special: list[Bool[np.ndarray, " num_tokens"]] = field(default_factory=list)
    causal: list[bool] = field(default_factory=list)
    mean: list[Float[np.ndarray, " num_tokens"]] = field(default_factory=list)
    per_document: list[Float[np.ndarray, " num_rows"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = len(self.names)
        self.count = np.zeros(size)
        self.sum = np.zeros(size)
        self.max = np.full(size, -np.inf)
        self.lift_sum = np.zeros(size)
        self.lift_max = np.full(size, -np.inf)
        self.even_sum = np.zeros(size)
        self.marks_sum = np.zeros(size)
        self.marks_count = np.zeros(size)
        self.products = np.zeros((size, size))
        self.complete = 0.0  # tokens with a value in every row
        self.complete_sum = np.zeros(size)
        self.by_position = np.zeros((2, size, BINS))
        self.by_class = np.zeros((2, size, len(CLASSES)))
        self.top_values = np.full((size, CONTEXTS), -np.inf)
        self.top_places = np.zeros((size, CONTEXTS, 2), dtype=np.int64)

    def add(
        self, tokens: Sequence[str], special: np.ndarray | None, values: Float[np.ndarray, "num_rows num_tokens"], causal: bool
    ) -> None:
        """Add one document."""
        tokens = tuple(tokens)
        marks = special_tokens(tokens, special)
        values = values.astype(np.float64)
        real = ~np.isnan(values)
        filled = np.where(real, values, 0.0)
        visible = np.arange(1, len(tokens) + 1) if causal else np.full(len(tokens), max(1, len(tokens)))
        with np.errstate(invalid="ignore", divide="ignore"):
            self.mean.append((filled.sum(0) / real.sum(0)).astype(np.float32))
        self.tokens.append(tokens)
        self.special.append(marks)
        self.causal.append(causal)
        kept = ~marks
        if causal:
            kept[:1] = False
        self._marks(filled, real, marks)
        self._words(values[:, kept], real[:, kept], filled[:, kept], visible[kept])
        self._places(filled[:, kept], real[:, kept], np.flatnonzero(kept), tokens)

    def _marks(self, filled: np.ndarray, real: np.ndarray, marks: np.ndarray) -> None:
        self.marks_sum += filled[:, marks].sum(1)
        self.marks_count += real[:, marks].sum(1)

    def _words(self, values: np.ndarray, real: np.ndarray, filled: np.ndarray, visible: np.ndarray) -> None:
        count = real.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.per_document.append(np.where(count > 0, filled.sum(1) / count, np.nan))
        self.count += count
        self.sum += filled.sum(1)
        self.lift_sum += (filled * visible).sum(1)
        self.even_sum += (real / visible).sum(1)
        lowest = np.where(real, values, -np.inf)
        self.max = np.maximum(self.max, lowest.max(1, initial=-np.inf))
        self.lift_max = np.maximum(self.lift_max, np.where(real, values * visible, -np.inf).max(1, initial=-np.inf))
        whole = filled[:, real.all(0)]
        self.products += whole @ whole.T
        self.complete += whole.shape[1]
        self.complete_sum += whole.sum(1)

    def _places(self, filled: np.ndarray, real: np.ndarray, where: np.ndarray, tokens: tuple[str, ...]) -> None:
        if not where.size:
            return
        bins = np.minimum(BINS - 1, where * BINS // len(tokens))
        classes = word_classes(tokens)[where]
        for sums, groups, size in ((self.by_position, bins, BINS), (self.by_class, classes, len(CLASSES))):
            member = np.eye(size)[groups]
            sums[0] += filled @ member
            sums[1] += real @ member
        few = min(CONTEXTS, where.size)
        ranked = np.where(real, filled, -np.inf)
        best = np.argpartition(-ranked, few - 1, axis=1)[:, :few]
        places = np.stack([np.full(best.shape, len(self.tokens) - 1), where[best]], axis=2)
        values = np.concatenate([self.top_values, np.take_along_axis(ranked, best, 1)], axis=1)
        together = np.concatenate([self.top_places, places], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :CONTEXTS]
        self.top_values = np.take_along_axis(values, order, 1)
        self.top_places = np.take_along_axis(together, order[:, :, None], 1)

    @property
    def row_mean(self) -> Float[np.ndarray, " num_rows"]:
        """Mean of each row over all tokens that count; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sum / self.count

    @property
    def documents(self) -> Float[np.ndarray, "num_documents num_rows"]:
        """Mean of each row in each document."""
        return np.array(self.per_document).reshape(len(self.per_document), len(self.names))

    def correlation(self) -> Float[np.ndarray, "num_rows num_rows"]:
        """Pearson's correlation of every pair of rows over all tokens that count; NaN where a row does not vary."""
        count = max(self.complete, 1.0)
        centre = self.complete_sum / count
        covariance = self.products / count - np.outer(centre, centre)
        spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        # What rounding leaves of a constant row is no variation.
        spread[spread <= 1e-7 * np.maximum(np.abs(centre), 1e-12)] = np.nan
        result: np.ndarray = np.clip(covariance / np.outer(spread, spread), -1.0, 1.0)
        return result

    def words(self) -> tuple[list[str], Int[np.ndarray, " n"], Float[np.ndarray, " n"], Int[np.ndarray, "n 2"]]:
        """Every token that counts: the vocabulary, index into it, mean over the rows, and (document, place)."""
        known: dict[str, int] = {}
        ids, values, places = [], [], []
        for document, tokens in enumerate(self.tokens):
            for place, token in enumerate(tokens):
                value = float(self.mean[document][place])
                if self.special[document][place] or (place == 0 and self.causal[document]) or np.isnan(value):
                    continue
                ids.append(known.setdefault(token, len(known)))
                values.append(value)
                places.append((document, place))
        return list(known), np.array(ids, dtype=np.int64), np.array(values), np.array(places, dtype=np.int64).reshape(-1, 2)


def read_corpus(documents: Iterable[Document], *, own: bool = True) -> Corpus:
    """Read every document of an analysis, all layers and heads; ``own`` is False where they hold another reading than the diagonal."""
    corpus: Corpus | None = None
    for document in documents:
        diagonal = np.asarray(document.diagonal)
        num_layers, num_heads, num_tokens = diagonal.shape
        if corpus is None:
            corpus = Corpus(tuple(f"L{layer}·H{head}" for layer in range(num_layers) for head in range(num_heads)))
        values = diagonal.reshape(num_layers * num_heads, num_tokens)
        corpus.add(document.tokens, document.special, values, own and first_is_one(values))
    return corpus or Corpus(())


def first_is_one(values: Float[np.ndarray, "num_rows num_tokens"]) -> bool:
    """Whether every head gives the first token exactly 1, as a causal mask forces it to.

    Example:
        >>> first_is_one(np.array([[1.0, 0.5]])), first_is_one(np.array([[0.9, 0.5]]))
        (True, False)
    """
    return values.shape[1] > 1 and bool(np.all(values[:, 0] >= 1 - 1e-3))
