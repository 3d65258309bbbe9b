"""The sentences that compare one document with the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attviz._insights._insight import Insight, quoted, share
from attviz.spelling import readable_labels

if TYPE_CHECKING:
    from attviz._insights._corpus import Corpus

_LEAST_OTHERS = 4
_LEAST_ELSEWHERE = 3


def text_sentences(corpus: Corpus) -> list[list[Insight]]:
    """Up to three sentences for each document: its mean compared with the others, its most unusual head, its most unusual token.

    Example:
        >>> from attviz._insights._corpus import Corpus
        >>> text_sentences(Corpus(()))
        []
    """
    told: list[list[Insight]] = [[] for _ in corpus.tokens]
    for told_by in (_ranks(corpus), _heads(corpus), _tokens(corpus)):
        for insight in told_by:
            told[insight.document or 0].append(insight)
    return told


def _ranks(corpus: Corpus) -> list[Insight]:
    means = corpus.documents
    if len(means) <= _LEAST_OTHERS or not means.shape[1]:
        return []
    counted = ~np.isnan(means).all(1)
    level = np.where(counted, np.nansum(means, 1) / np.maximum((~np.isnan(means)).sum(1), 1), np.nan)
    result = []
    for index in np.flatnonzero(counted).tolist():
        others = np.delete(level, index)
        others = others[~np.isnan(others)]
        below = int((others < level[index]).sum())
        low, high = np.quantile(others, [0.05, 0.95])
        place = "more than" if 2 * below >= len(others) else "less than"
        number = below if place == "more than" else int((others > level[index]).sum())
        result.append(
            Insight(
                "text",
                f"Here a token gives itself {share(level[index])}: {place} in {number} of the {len(others)} other documents.",
                f"Nine in ten lie between {share(low)} and {share(high)}.",
                float(level[index]),
                float(np.median(others)),
                {"statistic": "mean"},
                index,
            )
        )
    return result


def _heads(corpus: Corpus) -> list[Insight]:
    means = corpus.documents
    if len(means) <= _LEAST_OTHERS or not means.shape[1]:
        return []
    z = _against_the_others(means)
    reach = np.nanmedian(np.where(np.isnan(z).all(1), np.nan, np.nanmax(np.abs(np.nan_to_num(z)), axis=1)))
    result = []
    for index, row in enumerate(np.abs(np.nan_to_num(z)).argmax(1).tolist()):
        if np.isnan(z[index]).all():
            continue
        others = np.delete(means[:, row], index)
        size = abs(float(z[index, row]))
        result.append(
            Insight(
                "head",
                f"{corpus.names[row]} is where this text differs most: {share(means[index, row])} here, "
                f"{share(np.nanmean(others))} elsewhere.",
                f"{size:.1f} standard deviations; the largest of a typical document is {reach:.1f}.",
                size,
                float(reach),
                {"pin": [corpus.names[row]], "scope": "difference"},
                index,
            )
        )
    return result


def _against_the_others(means: np.ndarray) -> np.ndarray:
    """How far each document lies from the mean of the others, in their standard deviations, head by head."""
    count = (~np.isnan(means)).sum(0)
    total, squares = np.nansum(means, 0), np.nansum(means**2, 0)
    filled = np.nan_to_num(means)
    with np.errstate(invalid="ignore", divide="ignore"):
        others = (total - filled) / (count - 1)
        variance = ((squares - filled**2) - (count - 1) * others**2) / (count - 2)
        z: np.ndarray = (means - others) / np.sqrt(np.maximum(variance, 0.0))
    z[~np.isfinite(z)] = np.nan
    return z


def _tokens(corpus: Corpus) -> list[Insight]:
    """The token furthest above the mean of its word elsewhere, in standard deviations of tokens around the means of their words."""
    names, ids, values, places = corpus.words()
    if len(values) < 2:
        return []
    count, sums = np.bincount(ids), np.bincount(ids, weights=values)
    labels = readable_labels(names)
    spread = float(np.sqrt(np.mean((values - sums[ids] / count[ids])[count[ids] > 1] ** 2))) if (count[ids] > 1).any() else 0.0
    if spread == 0:
        return []
    elsewhere = (sums[ids] - values) / np.maximum(count[ids] - 1, 1)
    score = np.where(count[ids] > _LEAST_ELSEWHERE, (values - elsewhere) / spread, -np.inf)
    result = []
    for index in np.unique(places[:, 0]).tolist():
        own = np.flatnonzero(places[:, 0] == index)
        best = int(own[np.argmax(score[own])])
        if not np.isfinite(score[best]) or score[best] <= 1:
            continue
        name, others = quoted(labels[ids[best]]), int(count[ids[best]] - 1)
        result.append(
            Insight(
                "token",
                f"{name} (token {places[best, 1]}) gives itself {share(values[best])} here, "
                f"{share(elsewhere[best])} in {others} other places.",
                f"{score[best]:.1f} times the usual spread of a word around its mean.",
                float(values[best]),
                float(elsewhere[best]),
                {"t": int(places[best, 1])},
                index,
            )
        )
    return result
