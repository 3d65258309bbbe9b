"""FUJI: how similar two rankings are, scores included (Petković et al., arXiv:2008.02216).

``F(k)`` compares the first ``k`` items of both rankings: shared items count 1, an item that only one ranking has among its
first ``k`` counts by how close the other one comes to taking it. The area under the curve is one number for a pair of heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attviz.errors import ArgumentError, ShapeError

_SIZES = ("all", "squares", "powers")
_TIES = ("index", "groups")
_SAME_RANK = 1e-12
_HARMLESS_SPREAD = 1e-10  # relative, within a group of ties: beyond it the clip min(1, u / theta) can be felt


class Fuji(NamedTuple):
    """The comparison of two rankings.

    Attributes:
        sizes: The evaluated ``k``, rising, ``n`` last.
        curve: ``F(k)`` of each.
        area: Area under the curve, the sizes taken as equally spaced.
    """

    sizes: Int[Tensor, " num_sizes"]
    curve: Float[Tensor, " num_sizes"]
    area: float


@dataclass(frozen=True, slots=True, eq=False)
class _Ranking:
    """Scores in the order of their ranking: ``order[r]`` is the item of rank ``r``, ``rank`` is its inverse."""

    scores: np.ndarray
    order: np.ndarray
    rank: np.ndarray
    theta: np.ndarray  # smallest score among the first k items, at index k - 1
    ends: np.ndarray  # True where a group of ties ends at this size
    clipped: bool  # an item outside the first k may score above theta(k)


def fuji(
    scores: Float[Tensor, " num_items"],
    others: Float[Tensor, " num_items"],
    *,
    sizes: str = "all",
    ties: str = "index",
    eps: float = 0.0,
) -> Fuji:
    """Compare two rankings of the same items.

    Args:
        scores: At least 0; only their order and their ratios matter.
        others: Scores of the same items, in the same order.
        sizes: Evaluate every ``k`` (``"all"``), ``"squares"`` or ``"powers"`` of two; the number of items always comes last.
        ties: ``"index"``: equal scores rank by ascending item, as in the original; ``"groups"``: a size that would cut a group
            of ties in either ranking moves up to the next size that cuts none, so the order of items does not matter.
        eps: The curve is 1 from the first ``k`` at which neither ranking has anything above ``eps`` left.

    Returns:
        Sizes, curve and area.

    Raises:
        ShapeError: If the scores are empty, not in one row, or differ in length.
        ArgumentError: If a score is negative or not finite, or an option is unknown.

    Example:
        >>> result = fuji(torch.tensor([1.0, 0.9, 0.3, 0.14, 0.1]), torch.tensor([0.8, 0.9, 0.3, 0.14, 0.1]))
        >>> [round(value, 4) for value in result.curve.tolist()], round(result.area, 5)
        ([0.8944, 1.0, 1.0, 1.0, 1.0], 0.98681)
    """
    rows = [_scores(values) for values in (scores, others)]
    if rows[0].ndim != 1 or rows[0].shape != rows[1].shape:
        raise ShapeError(
            f"fuji: scores and others must be rows of the same items, got shapes {list(rows[0].shape)} and {list(rows[1].shape)}."
        )
    ranked, other = _rank(rows[0]), _rank(rows[1])
    evaluated = _sizes(len(rows[0]), sizes)
    if _checked(ties, _TIES, "ties") == "groups":
        evaluated = _uncut(evaluated, ranked, other)
    curve = _curve(ranked, other, evaluated, eps)
    return Fuji(torch.from_numpy(evaluated.copy()), torch.from_numpy(curve), _area(curve))


def fuji_matrix(
    scores: Float[Tensor, "num_heads num_items"], *, sizes: str = "all", ties: str = "index", eps: float = 0.0
) -> Float[Tensor, "num_heads num_heads"]:
    """Area under the FUJI curve for every pair of heads; float64, symmetric, 1 on its diagonal.

    Args:
        scores: One row per head over the same items, such as the mean diagonal of each vocabulary token that occurs often enough.
        sizes: As in :func:`fuji`.
        ties: As in :func:`fuji`.
        eps: As in :func:`fuji`.

    Raises:
        ShapeError: If the scores are not a matrix with at least one item.
        ArgumentError: If a score is negative or not finite, or an option is unknown.
    """
    rows = _matrix(scores, "fuji_matrix")
    evaluated = _sizes(rows.shape[1], sizes)
    _checked(ties, _TIES, "ties")
    ranked = [_rank(row) for row in rows]
    areas = np.eye(len(rows))
    for one in range(len(rows)):
        for other in range(one):
            pair = ranked[one], ranked[other]
            own = _uncut(evaluated, *pair) if ties == "groups" else evaluated
            areas[one, other] = areas[other, one] = _area(_curve(*pair, own, eps))
    return torch.from_numpy(areas)


class FujiNull(NamedTuple):
    """The chance level of each pair of heads: mean and standard deviation over permutations of the items."""

    mean: Float[Tensor, "num_heads num_heads"]
    std: Float[Tensor, "num_heads num_heads"]

    def z(self, areas: Float[Tensor, "num_heads num_heads"]) -> Float[Tensor, "num_heads num_heads"]:
        """How many standard deviations the areas lie above chance; NaN on the diagonal and where chance does not vary."""
        return torch.where(self.std > 0, (areas - self.mean) / self.std, torch.nan)


def fuji_null(
    scores: Float[Tensor, "num_heads num_items"],
    *,
    permutations: int = 20,
    seed: int = 0,
    sizes: str = "all",
    ties: str = "index",
    eps: float = 0.0,
) -> FujiNull:
    """The areas that remain if every head keeps its scores but they are assigned to random items.

    The level under chance is far from 0 (about 0.69 for independent uniform scores) and depends on the scores, so it is
    estimated for each pair.

    Args:
        scores: As in :func:`fuji_matrix`.
        permutations: How often every head is shuffled, at least 2.
        seed: Seed of the shuffles.
        sizes: As in :func:`fuji`.
        ties: As in :func:`fuji`.
        eps: As in :func:`fuji`.

    Raises:
        ShapeError: As in :func:`fuji_matrix`.
        ArgumentError: As in :func:`fuji_matrix`, or if there are fewer than two permutations.
    """
    if permutations < 2:
        raise ArgumentError(f"fuji_null: permutations must be at least 2, got {permutations}.")
    rows = _matrix(scores, "fuji_null")
    generator = np.random.default_rng(seed)
    shuffled = [
        fuji_matrix(torch.from_numpy(generator.permuted(rows, axis=1)), sizes=sizes, ties=ties, eps=eps) for _ in range(permutations)
    ]
    samples = torch.stack(shuffled)
    mean, std = samples.mean(0), samples.std(0)
    for values in (mean, std):
        values.fill_diagonal_(torch.nan)
    return FujiNull(mean, std)


def _scores(values: Tensor) -> np.ndarray:
    array: np.ndarray = torch.as_tensor(values).detach().to("cpu", torch.float64).numpy()
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ShapeError(f"fuji: there must be at least one item, got shape {list(array.shape)}.")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ArgumentError(
            "fuji: scores must be finite and at least 0. NaN means that an item was never seen: leave it out, or raise min_count."
        )
    return array


def _matrix(scores: Tensor, who: str) -> np.ndarray:
    rows = _scores(scores)
    if rows.ndim != 2:
        raise ShapeError(f"{who}: scores must be [num_heads, num_items], got shape {list(rows.shape)}.")
    return rows


def _checked(value: str, options: tuple[str, ...], what: str) -> str:
    if value not in options:
        raise ArgumentError(f"fuji: {what} must be one of {', '.join(map(repr, options))}; got {value!r}.")
    return value


def _sizes(count: int, sizes: str) -> np.ndarray:
    _checked(sizes, _SIZES, "sizes")
    every = np.arange(1, count + 1)
    if sizes == "squares":
        every = every[: int(count**0.5) + 1] ** 2
    elif sizes == "powers":
        every = 2 ** np.arange(count.bit_length())
    return np.union1d(every[every <= count], [count])


def _rank(scores: np.ndarray) -> _Ranking:
    """Descending; consecutive scores within 1e-12 share a rank and stand by ascending item."""
    order = np.argsort(-scores, kind="stable")
    new_group = np.concatenate([[True], -np.diff(scores[order]) > _SAME_RANK])
    order = order[np.lexsort((order, np.cumsum(new_group)))]
    ordered = scores[order]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    starts = np.flatnonzero(new_group)
    spread = np.maximum.reduceat(ordered, starts) - np.minimum.reduceat(ordered, starts)
    clipped = bool((spread > _HARMLESS_SPREAD * np.minimum.reduceat(ordered, starts)).any())
    return _Ranking(scores, order, rank, np.minimum.accumulate(ordered), np.concatenate([new_group[1:], [True]]), clipped)


def _uncut(sizes: np.ndarray, one: _Ranking, other: _Ranking) -> np.ndarray:
    """Sizes moved up to where neither ranking has a group of ties cut; each counted once."""
    whole = np.flatnonzero(one.ends & other.ends) + 1
    return np.unique(whole[np.searchsorted(whole, sizes)])


def _curve(one: _Ranking, other: _Ranking, sizes: np.ndarray, eps: float) -> np.ndarray:
    if one.clipped or other.clipped:
        curve = np.array([_overlap(one, other, int(size)) for size in sizes])
    else:
        curve = _overlaps(one, other)[sizes - 1]
    done = np.maximum(one.theta, other.theta) <= eps
    if done.any():
        curve[sizes >= np.argmax(done) + 1] = 1.0
    curve[sizes == len(one.scores)] = 1.0
    return curve


def _overlaps(one: _Ranking, other: _Ranking) -> np.ndarray:
    """``F(k)`` for every ``k`` at once, in O(n).

    An item outside ``U_k`` has ``u_i <= theta_u(k)``, so its membership is ``u_i / theta_u(k)`` and the memberships of
    ``V_k - U_k`` add up to one running sum over ``theta_u(k)``: item ``i`` joins the sum at its rank in ``v`` and leaves it at
    its rank in ``u``.
    """
    count = len(one.order)
    places = np.arange(count)  # items in the order of one: their rank there is their place
    in_other = other.rank[one.order]
    shared = np.cumsum(np.bincount(np.maximum(places, in_other), minlength=count))
    later = in_other < places
    own, others = one.scores[one.order], other.scores[one.order]
    change = np.zeros(count)
    change[in_other] = own * later
    members = _running(change - own * later, one.theta, places + 1 - shared)
    change[in_other] = -others * ~later
    members += _running(change + others * ~later, other.theta, places + 1 - shared)
    overlap: np.ndarray = (shared + members) / (2 * (places + 1) - shared)
    return overlap


def _running(change: np.ndarray, theta: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Memberships at each size; summed from the small end, where scores are small, so that large ones leave no rounding behind."""
    total = np.zeros(len(change))
    total[:-1] = -np.cumsum(change[:0:-1])[::-1]
    members = alone.astype(np.float64)
    with np.errstate(over="ignore"):  # NumPy 1.26 warns about lanes it computes and throws away, where numbers are subnormal
        np.divide(total, theta, out=members, where=theta > 0)
    return members


def _overlap(one: _Ranking, other: _Ranking, size: int) -> float:
    """``F(k)`` by its definition, O(n): where near-ties make the clip at 1 count."""
    in_one, in_other = one.rank < size, other.rank < size
    members = []
    for ranking in (one, other):
        theta = ranking.theta[size - 1]
        with np.errstate(over="ignore"):  # as in _running
            members.append(np.minimum(ranking.scores, theta) / theta if theta > 0 else np.ones(len(ranking.scores)))
    differ = in_one ^ in_other
    return float(((in_one & in_other).sum() + np.minimum(*members)[differ].sum()) / (in_one | in_other).sum())


def _area(curve: np.ndarray) -> float:
    if len(curve) == 1:
        return float(curve[0])
    return float((curve[1:] + curve[:-1]).sum() / 2 / (len(curve) - 1))
