"""Rank correlations and areas under the ROC curve, each with what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """A statistic with its permutation null: ``z`` is how many standard deviations it lies above chance."""

    value: float
    null_mean: float
    null_std: float

    @property
    def z(self) -> float:
        return (self.value - self.null_mean) / self.null_std

    def __str__(self) -> str:
        return f"{self.value:+.3f} (chance {self.null_mean:+.3f} ± {self.null_std:.3f}, z = {self.z:+.1f})"


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties at their mean rank."""
    order = np.argsort(values, kind="stable")
    places = np.empty(len(values))
    places[order] = np.arange(len(values))
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.bincount(inverse, weights=places) / count)[inverse]


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; NaN where one of them does not vary."""
    a, b = ranks(one), ranks(other)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def mean_spearman(pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, permutations: int = 200, seed: int = 0) -> Agreement:
    """Mean over documents of the rank correlation within each; the null shuffles the tokens inside every document."""
    generator = np.random.default_rng(seed)
    seen = float(np.nanmean([spearman(one, other) for one, other in pairs]))
    null = [np.nanmean([spearman(generator.permutation(one), other) for one, other in pairs]) for _ in range(permutations)]
    return Agreement(seen, float(np.mean(null)), float(np.std(null, ddof=1)))


def auc(values: np.ndarray, members: np.ndarray, *, permutations: int = 2000, seed: int = 0) -> Agreement:
    """Chance that a member ranks above a non-member; the null shuffles who is a member."""
    generator = np.random.default_rng(seed)
    place = ranks(values)

    def area(who: np.ndarray) -> float:
        inside = int(who.sum())
        return float((place[who].sum() - inside * (inside - 1) / 2) / (inside * (len(who) - inside)))

    null = [area(generator.permutation(members)) for _ in range(permutations)]
    return Agreement(area(members), float(np.mean(null)), float(np.std(null, ddof=1)))
