"""A card for each head: its profile by position and kind of token, the places where it is strongest, the heads most like it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attviz._insights._words import CLASSES

if TYPE_CHECKING:
    from attviz._insights._corpus import Corpus

_NEAREST = 5


def head_cards(corpus: Corpus) -> dict[str, Any]:
    """Plain JSON, one entry per row in each list.

    Returns:
        ``classes`` (names); ``position`` and ``kinds`` (means, None where a class has no token); ``top`` (document, token, value); ``near``
        (row, correlation); ``role`` (a short judgement from the diagonal alone, and why).

    Example:
        >>> from attviz._insights import Corpus
        >>> head_cards(Corpus(()))["role"]
        []
    """
    correlation = corpus.correlation()
    np.fill_diagonal(correlation, np.nan)
    return {
        "classes": list(CLASSES),
        "position": _means(corpus.by_position),
        "kinds": _means(corpus.by_class),
        "top": [
            [
                [int(document), int(token), _short(value)]
                for value, (document, token) in zip(values, places, strict=True)
                if np.isfinite(value)
            ]
            for values, places in zip(corpus.top_values, corpus.top_places, strict=True)
        ],
        "near": [_nearest(row) for row in correlation],
        "role": _roles(corpus),
    }


def _means(sums: np.ndarray) -> list[list[float | None]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[0] / sums[1]
    return [[None if np.isnan(value) else _short(value) for value in row] for row in means]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _nearest(row: np.ndarray) -> list[list[float]]:
    order = np.argsort(-np.where(np.isnan(row), -np.inf, row), kind="stable")[:_NEAREST]
    return [[int(other), _short(row[other])] for other in order if not np.isnan(row[other])]


def _roles(corpus: Corpus) -> list[list[str]]:
    """What the diagonal alone can tell: a head that looks elsewhere may do so for any reason."""
    if not corpus.names:
        return []
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = corpus.lift_sum / corpus.count
    middle = float(np.nanmedian(lift)) if (corpus.count > 0).any() else 1.0
    spread = 1.4826 * float(np.nanmedian(np.abs(lift - middle))) if (corpus.count > 0).any() else 0.0
    return [_role(value, most, middle, spread) for value, most in zip(lift.tolist(), corpus.lift_max.tolist(), strict=True)]


def _role(lift: float, most: float, middle: float, spread: float) -> list[str]:
    if np.isnan(lift):
        return ["unknown", "it has no values"]
    if most < 1:
        return ["never itself", f"below even attention on every token (at most {most:.2g} of it)"]
    if lift > max(1.0, middle + 3 * spread):
        return ["own position", f"{lift:.2g} times even attention; the median head {middle:.2g}, robust deviation {spread:.2g}"]
    if lift < 1:
        return ["elsewhere", f"{lift:.2g} times even attention on average"]
    return ["no clear role", f"{lift:.2g} times even attention; the median head {middle:.2g}, robust deviation {spread:.2g}"]
