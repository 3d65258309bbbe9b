"""What the page knows about all documents together: moments, colour ranges, clusters, sentences, head cards, the table of tokens."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz._insights import Corpus, Insight, Measure, reading_sentences, sentences, text_sentences
from attviz._insights import head_cards as cards_of
from attviz.clustering import cluster
from attviz.errors import ShapeError
from attviz.spelling import special_tokens
from attviz.viewer.codec import Precision, encode
from attviz.viewer.measure import precision_for
from attviz.viewer.payload import HeadMoments, finite_list

if TYPE_CHECKING:
    from jaxtyping import Float

    from attviz.records import Document
    from attviz.viewer.payload import Payload

_EDGES = np.linspace(-8.0, 5.0, 1301)  # decades of the histogram behind the ranges: a hundredth of a decade a bin


class Ranges:
    """Quantiles of all values of a page, for colours that mean the same in every document."""

    def __init__(self) -> None:
        self.histogram = np.zeros((2, len(_EDGES) - 1))  # of the values, and of the values times visible keys
        self.ends = [np.inf, -np.inf]
        self.zeros = 0

    def update(self, values: Float[np.ndarray, "num_rows num_tokens"], visible: Float[np.ndarray, " num_tokens"]) -> None:
        """Add one document."""
        if not values.size or np.isnan(values).all():
            return
        self.ends = [min(self.ends[0], float(np.nanmin(values))), max(self.ends[1], float(np.nanmax(values)))]
        self.zeros += int((values == 0).sum())
        for row, shown in enumerate((values, values * visible)):
            positive = shown[shown > 0]
            self.histogram[row] += np.histogram(np.log10(np.clip(positive, 1e-8, 1e5)), _EDGES)[0]

    def as_json(self) -> dict[str, list[float | None]]:
        """Lowest and highest value of each scale of the page, by its name."""
        if not self.histogram[0].any():
            return {}
        plain, lifted = (_quantiles(row, 0) for row in self.histogram)
        robust = _quantiles(self.histogram[0], self.zeros)
        columns = {"log": plain, "raw": self.ends, "robust": robust, "lift": lifted}
        return {name: finite_list(ends) for name, ends in columns.items()}


def _quantiles(histogram: np.ndarray, zeros: int) -> list[float]:
    """The 1 % and 99 % quantiles; ``zeros`` values lie below the histogram."""
    below = np.concatenate([[0.0], np.cumsum(histogram)]) + zeros
    wanted = [share * below[-1] for share in (0.01, 0.99)]
    return [0.0 if target < zeros else float(10 ** np.interp(target, below, _EDGES)) for target in wanted]


class Findings:
    """Collects findings over the documents of one model, special tokens apart, and writes them into the head of the page."""

    def __init__(self, names: Sequence[str], measure: Measure | None = None) -> None:
        self.measure = measure
        self.corpus = Corpus(tuple(names))
        self.moments = {"out": HeadMoments(len(names)), "in": HeadMoments(len(names))}
        self.ranges = {"out": Ranges(), "in": Ranges()}
        self.outcomes: list[bool | None] = []

    def add(self, document: Document, values: Float[np.ndarray, "num_rows num_tokens"], causal: bool) -> dict[str, float | None]:
        """Add one document; returns its mean without special tokens and with them, for the list of documents."""
        self.corpus.add(document.tokens, document.special, values, causal)
        self.outcomes.append(None if document.label is None or document.prediction is None else document.label == document.prediction)
        kept = ~special_tokens(document.tokens, document.special)
        count = values.shape[1]
        visible = np.arange(1.0, count + 1) if causal else np.full(count, float(count))
        row = {}
        for name, which, key in (("out", kept if kept.any() else ~kept, "mean"), ("in", np.ones(count, bool), "meanIn")):
            part = values[:, which]
            self.moments[name].update(part)
            self.ranges[name].update(part.astype(np.float64), visible[which])
            row[key] = float(np.nanmean(part)) if part.size and not np.isnan(part).all() else None
        return row

    def fields(self, extra: Sequence[Insight] = (), similarity: Float[np.ndarray, "num_rows num_rows"] | None = None) -> dict[str, Any]:
        """What the head of the page contains.

        Raises:
            ShapeError: If the similarity has other rows than the page.
        """
        size = len(self.corpus.names)
        if similarity is not None and np.shape(similarity) != (size, size):
            raise ShapeError(
                f"view: similarity must be [num_rows, num_rows] of the {size} heads shown, layer by layer, "
                f"got {list(np.shape(similarity))}."
            )
        tree = cluster(self.corpus.correlation() if similarity is None else np.asarray(similarity, dtype=np.float64))
        about_all = sentences(self.corpus, self.outcomes) if self.measure is None else reading_sentences(self.corpus, self.measure)
        told = [*extra, *about_all]
        return {
            "overall": self.moments["out"].as_json(),
            "overallIn": self.moments["in"].as_json(),
            "ranges": {name: self._ends(ranges) for name, ranges in self.ranges.items()},
            "cluster": {"order": tree.order.tolist(), "merges": [[int(a), int(b), finite_list([d])[0]] for a, b, d, _ in tree.merges]},
            "insights": [insight_json(one) for one in told],
        }

    def _ends(self, ranges: Ranges) -> dict[str, list[float | None]]:
        if self.measure is None or self.measure.bounded:
            return ranges.as_json()
        return {"raw": finite_list(ranges.ends)} if np.isfinite(ranges.ends).all() else {}

    def keep_parts(self, payload: Payload, *, several: bool) -> None:
        """Keep what is read on demand: sentences about each document and, with several, the table of tokens and the head cards."""
        if several:
            payload.need("corpus")
            payload.keep("corpus", 0, corpus_json(self.corpus, precision_for(self.measure, "u16")))
            cards = cards_of(self.corpus)
            payload.keep("heads", 0, cards if self.measure is None else cards | {"role": []})
        if self.measure is not None:
            return  # what is told of one text is told of the diagonal
        for index, told in enumerate(text_sentences(self.corpus)):
            if told:
                payload.keep("insights", index, [insight_json(one) for one in told])


def insight_json(insight: Insight) -> dict[str, Any]:
    """A sentence as the page carries it."""
    return {"name": insight.name, "text": insight.text, "null": insight.null, "state": dict(insight.state)}


def corpus_json(corpus: Corpus, precision: Precision = "u16") -> dict[str, Any]:
    """Every token of every document with its mean over the vectors: what the page searches for a token in context."""
    known: dict[str, int] = {}
    ids = [known.setdefault(token, len(known)) for tokens in corpus.tokens for token in tokens]
    special = np.zeros(len(known), bool)
    marks = np.concatenate([*corpus.special, np.zeros(0, bool)])
    special[np.array(ids, dtype=np.int64)[marks]] = True
    means = np.concatenate([*corpus.mean, np.zeros(0, np.float32)])
    return {
        "words": list(known),
        "special": np.flatnonzero(special).tolist(),
        "causal": [index for index, causal in enumerate(corpus.causal) if causal],
        "sizes": [len(tokens) for tokens in corpus.tokens],
        "ids": base64.b64encode(zlib.compress(np.array(ids, "<u4").tobytes(), 6)).decode("ascii"),
        "precision": precision,
        "means": encode(means, precision),
    }


def row_names(grid: Mapping[str, Any]) -> list[str]:
    """Names of the vectors of a grid, as in the page.

    Example:
        >>> row_names({"layers": [{"index": 1, "name": "a"}], "heads": [0, 2]})
        ['L1·H0', 'L1·H2']
    """
    return [f"L{layer['index']}·H{head}" for layer in grid["layers"] for head in grid["heads"]]
