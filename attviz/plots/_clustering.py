"""An order of things in which like stands beside like: average-linkage clustering, for heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def leaf_order(similarity: Float[np.ndarray, "n n"]) -> Int[np.ndarray, " n"]:
    """Leaves of the average-linkage tree from left to right, the tighter branch first; ties go to the lower index.

    Args:
        similarity: Symmetric; the larger, the more alike. NaN counts as the least similar.
    """
    count = len(similarity)
    linked = np.where(np.isnan(similarity), -np.inf, similarity).astype(np.float64)
    linked[~np.isfinite(linked)] = linked[np.isfinite(linked)].min(initial=0.0) - 1.0
    np.fill_diagonal(linked, -np.inf)
    leaves = {place: [place] for place in range(count)}
    for _ in range(count - 1):
        one, other = divmod(int(np.argmax(linked)), count)
        sizes = len(leaves[one]), len(leaves[other])
        merged = (sizes[0] * linked[one] + sizes[1] * linked[other]) / sum(sizes)
        leaves[one] += leaves.pop(other)
        linked[one], linked[:, one] = merged, merged
        linked[other], linked[:, other] = -np.inf, -np.inf
        linked[one, one] = -np.inf
    return np.array(next(iter(leaves.values()), []), dtype=int)
