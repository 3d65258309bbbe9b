"""Sentences whose chance level comes from random draws: kinds of tokens, words, right and wrong documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from attviz._insights._insight import SHUFFLES, Insight, points, quoted, share
from attviz._insights._words import CLASSES, word_classes
from attviz.spelling import readable_labels

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from attviz._insights._corpus import Corpus

_LEAST_DOCUMENTS = 3
_LEAST_OCCURRENCES = 3
_LEAST_TOKENS = 20
_LEAST_OF_A_KIND = 5
_MOST_DRAWN = 20_000
_NAMES = ("Punctuation", "Numbers", "Insides of words", "Capitalised words", "Short words", "Longer words", "Other tokens")


def kinds(corpus: Corpus) -> Iterator[Insight]:
    """The kind of token that differs most from the others, measured by how rarely as many random tokens differ as much."""
    _, _, values, places = corpus.words()
    if len(values) < _LEAST_TOKENS or values.std() == 0:
        return
    by_document = [word_classes(tokens) for tokens in corpus.tokens]
    kind_of = np.array([by_document[document][place] for document, place in places])
    scores = np.array([_score(values, kind_of == kind) for kind in range(len(CLASSES) - 1)])
    kind = int(scores.argmax())
    if scores[kind] <= 0:
        return
    members = kind_of == kind
    inside, outside = float(values[members].mean()), float(values[~members].mean())
    low, high = chance_of_mean(values, int(members.sum()))
    verb, what = ("gives", "itself") if kind == 0 else ("give", "themselves")
    more = "more" if inside > outside else "less"
    yield Insight(
        "kind",
        f"{_NAMES[kind]} {verb} {what} {more} than the rest do: {share(inside)} compared with {share(outside)}.",
        f"As many random tokens: {share(low)} to {share(high)} (95% interval).",
        inside,
        outside,
        {"topScope": "all", "topBy": "value"},
    )


def _score(values: Float[np.ndarray, " n"], members: Bool[np.ndarray, " n"]) -> float:
    """How many standard deviations a mean lies from chance, for as many values drawn without replacement."""
    count = int(members.sum())
    if not _LEAST_OF_A_KIND <= count <= len(values) - _LEAST_OF_A_KIND:
        return 0.0
    return float(abs(values[members].mean() - values.mean()) / (values.std() * np.sqrt((1 - count / len(values)) / count)))


def words(corpus: Corpus) -> Iterator[Insight]:
    """The word with the highest self-attention, among those that occur often enough."""
    names, ids, values, places = corpus.words()
    if not len(values):
        return
    count = np.bincount(ids, minlength=len(names))
    sums = np.bincount(ids, weights=values, minlength=len(names))
    labels = readable_labels(names)
    often = [i for i in np.flatnonzero(count >= _LEAST_OCCURRENCES).tolist() if any(char.isalpha() for char in labels[i])]
    if len(often) < 2:
        return
    best = max(often, key=lambda i: (sums[i] / count[i], -i))
    mean = float(sums[best] / count[best])
    reach = chance_of_best(values, count[often])
    document, place = places[ids == best][int(np.argmax(values[ids == best]))].tolist()
    verdict = "" if mean > reach else ", no more than chance"
    yield Insight(
        "word",
        f"{quoted(labels[best])} leads the words that occur at least {_LEAST_OCCURRENCES} times: {share(mean)} "
        f"over {count[best]} places{verdict}.",
        f"The best of as many random groups stays below {share(reach)} (95%).",
        mean,
        reach,
        {"d": document, "t": place},
    )


def chance_of_mean(values: Float[np.ndarray, " n"], size: int) -> tuple[float, float]:
    """The interval that holds the mean of ``size`` randomly drawn values 95 times in 100 (without replacement)."""
    rng = np.random.default_rng(0)
    sample = values if len(values) <= _MOST_DRAWN else rng.choice(values, _MOST_DRAWN, replace=False)
    drawn = [rng.choice(sample, min(size, len(sample)), replace=False).mean() for _ in range(SHUFFLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def chance_of_best(values: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " groups"]) -> float:
    """The level that the largest mean of random groups of these sizes exceeds 5 times in 100."""
    rng = np.random.default_rng(0)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    found = [float((np.add.reduceat(rng.choice(values, int(sizes.sum())), starts) / sizes).max()) for _ in range(SHUFFLES)]
    return float(np.quantile(found, 0.95))


def right_and_wrong(corpus: Corpus, outcomes: Sequence[bool | None]) -> Iterator[Insight]:
    """The head that differs most between documents the model got wrong and right; its null is the largest difference of any head."""
    known = [i for i, outcome in enumerate(outcomes) if outcome is not None]
    right = np.array([bool(outcomes[i]) for i in known], dtype=bool)
    if right.sum() < _LEAST_DOCUMENTS or (~right).sum() < _LEAST_DOCUMENTS:
        return
    means = corpus.documents[known]
    usable = ~np.isnan(means).any(axis=0)
    if not usable.any():
        return
    found = _gaps(means, right, usable)
    best = int(np.argmax(np.abs(found)))
    rng = np.random.default_rng(0)
    largest = [float(np.abs(_gaps(means, rng.permutation(right), usable)).max()) for _ in range(SHUFFLES)]
    reach = float(np.quantile(largest, 0.95))
    wrong, good = float(means[~right, best].mean()), float(means[right, best].mean())
    name = corpus.names[best]
    stands = abs(float(found[best])) > reach
    start = (
        f"{name} tells wrong documents from right ones"
        if stands
        else f"No head tells wrong documents from right ones; {name} comes nearest"
    )
    yield Insight(
        "wrong",
        f"{start}: {share(wrong)} on wrong, {share(good)} on right.",
        f"{points(abs(float(found[best])))} points apart; with shuffled outcomes, the largest of {len(corpus.names)} gaps "
        f"stays below {points(reach)} (95%).",
        float(found[best]),
        reach,
        {"pin": [name], "outcome": "wrong"},
    )


def _gaps(
    means: Float[np.ndarray, "num_documents num_rows"], right: Bool[np.ndarray, " num_documents"], usable: Bool[np.ndarray, " num_rows"]
) -> Float[np.ndarray, " num_rows"]:
    gaps: np.ndarray = np.where(usable, means[~right].mean(axis=0) - means[right].mean(axis=0), 0.0)
    return gaps
