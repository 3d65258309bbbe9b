"""An order in which similar items are neighbours, and the tree behind it: average linkage, for heat maps and the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_MOST_ORDERED = 400  # optimal ordering takes the cube of the number of leaves


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """A tree over items.

    Attributes:
        order: The leaves from left to right.
        merges: ``(one, other, distance, size)`` per merge, as in SciPy's linkage; index ``n + i`` is the cluster of merge ``i``.
    """

    order: Int[np.ndarray, " n"]
    merges: Float[np.ndarray, "n-1 4"]


def cluster(similarity: Float[np.ndarray, "n n"]) -> Clusters:
    """Average linkage of a similarity matrix (SciPy), with its leaves ordered so that neighbours are alike (Bar-Joseph et al. 2001).

    Args:
        similarity: Symmetric, at most 1 (a correlation, AUFUJI); the distance is ``1 - similarity``. NaN counts as the least similar.

    Example:
        >>> cluster(np.array([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]])).order.tolist()
        [1, 2, 0]
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    count = len(similarity)
    if count < 2:
        return Clusters(np.arange(count), np.zeros((0, 4)))
    known = similarity[np.isfinite(similarity)]
    filled = np.where(np.isfinite(similarity), similarity, known.min(initial=0.0)).astype(np.float64)
    distance = np.maximum(1.0 - (filled + filled.T) / 2, 0.0)
    np.fill_diagonal(distance, 0.0)
    merges = linkage(squareform(distance, checks=False), method="average", optimal_ordering=count <= _MOST_ORDERED)
    return Clusters(leaves_list(merges).astype(np.int64), merges)
