"""Statistics shared by all packages: the six aggregates per token in NumPy, pooling of moments, names of the entropies.

:mod:`attviz.metrics` has the aggregates for tensors on a device, with options; figures, tables and the page use these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ArgumentError

if TYPE_CHECKING:
    from jaxtyping import Float

ENTROPIES = {"table2": "entropy", "binned": "binned entropy", "shannon": "shannon entropy"}
"""What a figure or table calls each ``kind`` of :func:`attviz.metrics.entropy`."""
AGGREGATES = ("mean", "std", "max", "min", "range", *ENTROPIES.values())


def pool(count: Any, mean: Any, m2: Any, other_count: Any, other_mean: Any, other_m2: Any) -> tuple[Any, Any, Any]:
    """Pool the moments of two samples (Chan, Golub and LeVeque 1979), of arrays or tensors alike, best in float64.

    Args:
        count: Values in the first sample, broadcastable to its means.
        mean: Their means.
        m2: Their sums of squared deviations from the mean.
        other_count: The same of the second sample.
        other_mean: The same of the second sample.
        other_m2: The same of the second sample.

    Returns:
        Count, mean and m2 of both samples together. An empty second sample changes nothing, to the last bit.

    Example:
        >>> pool(2, 1.0, 2.0, 1, 4.0, 0.0)
        (3, 2.0, 8.0)
    """
    total = count + other_count
    share = other_count / (total + (total == 0))
    delta = other_mean - mean
    return total, mean + delta * share, m2 + other_m2 + delta * delta * count * share


def aggregate_row(
    values: Float[np.ndarray, "num_vectors num_tokens"], kind: str, *, who: str = "aggregate"
) -> Float[np.ndarray, " num_tokens"]:
    """One aggregate per token over its vectors (AttViz paper, Table 2); NaN where the token has no value.

    ``std`` divides by ``h - 1``; ``entropy`` is the one Table 2 prints, ``binned entropy`` the one of the original page,
    ``shannon entropy`` that of the normalised values, in nats.

    Raises:
        ArgumentError: If ``kind`` is not one of :data:`AGGREGATES`.
    """
    if kind not in AGGREGATES:
        raise ArgumentError(f"{who}: aggregate must be one of {', '.join(map(repr, AGGREGATES))}; got {kind!r}.")
    missing = np.isnan(values).all(axis=0)
    row = np.full(values.shape[1], np.nan)
    if missing.all():
        return row
    row[~missing] = _KINDS[kind](values[:, ~missing])
    return row


def _std(values: np.ndarray) -> np.ndarray:
    count = (~np.isnan(values)).sum(axis=0)
    squares = np.nansum((values - np.nanmean(values, axis=0)) ** 2, axis=0)
    deviation: np.ndarray = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
    return deviation


def _distinct(values: np.ndarray) -> np.ndarray:
    """Number of distinct values of each token; NaN does not count."""
    ordered = np.sort(values, axis=0)  # NaN sorts last
    real = ~np.isnan(ordered)
    changes = (ordered[1:] != ordered[:-1]) & real[1:]
    distinct: np.ndarray = real[0] + changes.sum(axis=0)
    return distinct


def _table2(values: np.ndarray) -> np.ndarray:
    entropy: np.ndarray = -np.nansum(_x_log_x(values), axis=0) / _distinct(values)
    return entropy


def _binned(values: np.ndarray) -> np.ndarray:
    bins = np.floor(values * 100)  # in double: 0.29 falls into bin 28, as on the original page
    counts = np.stack([(bins == step).sum(axis=0) for step in range(101)])
    share = counts / counts.sum(axis=0)
    entropy: np.ndarray = -_x_log_x(share).sum(axis=0) / (counts > 0).sum(axis=0)
    return entropy


def _shannon(values: np.ndarray) -> np.ndarray:
    total = np.nansum(values, axis=0)
    share = np.divide(values, total, out=np.full_like(values, np.nan), where=total > 0)
    return np.where(total > 0, -np.nansum(_x_log_x(share), axis=0), 0.0)


def _x_log_x(values: np.ndarray) -> np.ndarray:
    return values * np.log(np.where(values > 0, values, 1.0))


_KINDS = {
    "mean": lambda values: np.nanmean(values, axis=0),
    "std": _std,
    "max": lambda values: np.nanmax(values, axis=0),
    "min": lambda values: np.nanmin(values, axis=0),
    "range": lambda values: np.nanmax(values, axis=0) - np.nanmin(values, axis=0),
    "entropy": _table2,
    "binned entropy": _binned,
    "shannon entropy": _shannon,
}
