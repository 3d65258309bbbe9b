"""The sentences about a whole analysis, each with its number, its null, and the state of the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from attviz._insights._chance import kinds, right_and_wrong, words
from attviz._insights._corpus import Corpus, read_corpus
from attviz._insights._insight import Insight, share
from attviz._insights._measure import measure_of
from attviz._insights._readings import reading_sentences
from attviz.spelling import shorten

MOST_PINS = 6


def insights(analysis: Any) -> tuple[Insight, ...]:
    """Say what stands out in an analysis.

    Args:
        analysis: From :func:`attviz.analyze` or :func:`attviz.io.load`: anything with ``documents``.

    Returns:
        Four to seven sentences about the whole, special tokens left out. Chance levels come from a fixed seed: the same analysis gives the
        same sentences. Where labels and predictions are known, one compares right with wrong documents. An analysis of another reading
        (``attviz.analyze(reading=...)``) gives its level and the heads at both ends.

    Example:
        >>> from attviz.records import Analysis, Document
        >>> diagonal = np.full((1, 2, 4), 0.5, np.float32)
        >>> told = insights(Analysis(("layer",), [Document("a b c d", ("a", "b", "c", "d"), diagonal)]))
        >>> told[0].text
        'On average, a token gives itself 50% of its attention.'
    """
    documents = analysis.documents
    if (measure := measure_of(analysis)) is not None:
        return reading_sentences(read_corpus(documents, own=False), measure)
    outcomes = [None if one.label is None or one.prediction is None else one.label == one.prediction for one in documents]
    return sentences(read_corpus(documents), outcomes)


def sentences(corpus: Corpus, outcomes: Sequence[bool | None] = ()) -> tuple[Insight, ...]:
    """The sentences about a corpus that was already read.

    Args:
        corpus: From :func:`read_corpus`.
        outcomes: For each document, whether the model was right; None if that is not known.
    """
    if not corpus.names or not corpus.count.any():
        return ()
    found: list[Insight] = []
    for question in _QUESTIONS:
        found.extend(question(corpus))
    found.extend(right_and_wrong(corpus, outcomes))
    return tuple(found)


def _scope(corpus: Corpus) -> dict[str, str]:
    """Show a sentence about all documents on the map of all documents."""
    return {"scope": "all"} if len(corpus.tokens) > 1 else {}


def _own(corpus: Corpus) -> Iterator[Insight]:
    mean, even = float(corpus.sum.sum() / corpus.count.sum()), float(corpus.even_sum.sum() / corpus.count.sum())
    yield Insight(
        "own",
        f"On average, a token gives itself {share(mean)} of its attention.",
        f"Even attention over all it sees would give {share(even)}.",
        mean,
        even,
        {"statistic": "mean", **_scope(corpus)},
    )


def _most(corpus: Corpus) -> Iterator[Insight]:
    means = corpus.row_mean
    if len(means) < 2 or np.isnan(means).all():
        return
    best, middle = int(np.nanargmax(means)), float(np.nanmedian(means))
    if means[best] <= middle:
        return
    order = np.argsort(-np.nan_to_num(means), kind="stable")[: min(3, len(means))]
    yield Insight(
        "most",
        f"{corpus.names[best]} looks at its own position most: {share(means[best])} of its attention.",
        f"The median head: {share(middle)}.",
        float(means[best]),
        middle,
        {"pin": [corpus.names[row] for row in order], "arrange": "value", **_scope(corpus)},
    )


def _never(corpus: Corpus) -> Iterator[Insight]:
    never = np.flatnonzero((corpus.lift_max < 1) & (corpus.count > 0))
    if not never.size:
        least = int(np.argmin(np.where(corpus.count > 0, corpus.max, np.inf)))
        yield Insight(
            "never",
            f"Every head looks at its own position somewhere; {corpus.names[least]} does so least, at most {share(corpus.max[least])}.",
            f"Even attention gives {share(_even(corpus))}.",
            0.0,
            _even(corpus),
            {"pin": [corpus.names[least]], "arrange": "value", **_scope(corpus)},
        )
        return
    order = never[np.argsort(corpus.max[never], kind="stable")]
    who = corpus.names[order[0]] if never.size == 1 else f"{never.size} of {len(corpus.names)} heads"
    verb = "never looks at its own position" if never.size == 1 else "never look at their own position"
    yield Insight(
        "never",
        f"{who} {verb}: every token gets less than even attention"
        + ("." if never.size == 1 else f", at most {share(corpus.max[order[0]])} in {corpus.names[order[0]]}."),
        f"Even attention gives {share(_even(corpus))}.",
        float(never.size),
        _even(corpus),
        {"pin": [corpus.names[row] for row in order[:MOST_PINS]], "arrange": "value", **_scope(corpus)},
    )


def _even(corpus: Corpus) -> float:
    return float(corpus.even_sum.sum() / max(corpus.count.sum(), 1))


def _special(corpus: Corpus) -> Iterator[Insight]:
    kept = (corpus.marks_count > 0) & (corpus.count > 0)
    if not kept.any():
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        marks, words = corpus.marks_sum / corpus.marks_count, corpus.row_mean
    value, expected = float(marks[kept].mean()), float(words[kept].mean())
    stronger, total = int((marks[kept] > words[kept]).sum()), int(kept.sum())
    more, heads = ("more", stronger) if value >= expected else ("less", total - stronger)
    pairs = zip(corpus.tokens, corpus.special, strict=True)
    names = sorted({tokens[place] for tokens, special in pairs for place in np.flatnonzero(special)})
    spelled = " and ".join(shorten(name, 14) for name in names[:2]) + (" and the like" if len(names) > 2 else "")
    gives = "gives itself" if len(names) == 1 else "give themselves"
    yield Insight(
        "special",
        f"{spelled} {gives} {share(value)}, {more} than the other tokens in {heads} of {total} heads. They are left out here.",
        f"The other tokens give themselves {share(expected)}.",
        value,
        expected,
        {"special": "in"},
    )


_QUESTIONS: tuple[Callable[[Corpus], Iterator[Insight]], ...] = (_own, _most, _never, _special, kinds, words)
