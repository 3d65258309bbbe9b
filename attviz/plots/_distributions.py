"""Densities of per-token aggregates of one or more data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ArgumentError
from attviz.plots._canvas import HUES, PROBABILITY, new_axes, open_frame
from attviz.plots._source import source_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from attviz.plots._source import Drawable
    from attviz.selecting import Documents, Heads, Layers

_DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1.5, 2)))
_MOST = 20_000  # a kernel density of more points costs time and shows the same curve


def distributions(
    values: Mapping[str, Float[np.ndarray, " num_values"]] | Drawable,
    *,
    log: bool = True,
    floor: float = 1e-6,
    label: str = PROBABILITY,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    ax: Axes | None = None,
    **kde_kwargs: Any,
) -> Axes:
    """Draw a density curve per named set of values, such as the mean, max and min of every token of a data set.

    Args:
        values: Name -> values; NaN is left out; or a Capture, an Analysis or Documents: mean, max and min of every
            token. More than 20 000 values are represented by that many quantiles.
        log: Logarithmic axis; the density is then per factor of ten.
        floor: On a logarithmic axis, values below it (zero included) are drawn here; the legend says how many.
        label: Axis label, with the unit.
        layers: Layers that count: one or several indices, slices, names or glob patterns; None counts all. Not for arrays.
        heads: Heads that count: one or several indices or slices. Not for arrays.
        documents: Documents that count: one or several indices or slices. Not for arrays.
        ax: Where to draw.
        **kde_kwargs: For ``seaborn.kdeplot``.

    Returns:
        The axes.

    Raises:
        ArgumentError: If there is nothing to draw, or the floor is not above 0.
    """
    import seaborn as sns

    source = source_of(values, "plots.distributions", layers, heads, documents)
    sets: Any = values if source is None else source.token_values
    if not sets:
        raise ArgumentError("plots.distributions: values must hold at least one named array.")
    if log and not floor > 0:
        raise ArgumentError(f"plots.distributions: floor must be above 0 on a logarithmic axis, got {floor!r}.")
    ax = new_axes(ax, 6.4, 3.6)
    for place, (name, given) in enumerate(sets.items()):
        sample, below = _sample(np.asarray(given, dtype=np.float64), floor if log else None, name)
        note = f" ({below:.1%} below {floor:.0e})" if below else ""
        style: dict[str, Any] = {
            "color": HUES[place % len(HUES)],
            "linestyle": _DASHES[place % len(_DASHES)],
            "linewidth": 1.7,
        } | kde_kwargs
        sns.kdeplot(x=sample, log_scale=log, ax=ax, label=name + note, warn_singular=False, **style)
        if np.ptp(sample) == 0:  # no density has a curve there
            ax.axvline(sample[0], label=f"{name} (all {sample[0]:.3g})", **{**style, "linestyle": ":"})
    open_frame(ax)
    ax.set(xlabel=label, ylabel="density per factor of 10" if log else "density")
    ax.legend(frameon=False, fontsize=8)
    return ax


def _sample(values: np.ndarray, floor: float | None, name: str) -> tuple[np.ndarray, float]:
    """Values to draw, and the share that lies below the floor."""
    values = values[~np.isnan(values)].ravel()
    if not values.size:
        raise ArgumentError(f"plots.distributions: {name!r} holds no value.")
    below = 0.0
    if floor is not None:
        below = float((values < floor).mean())
        values = np.maximum(values, floor)
    if values.size > _MOST:
        values = np.quantile(values, (np.arange(_MOST) + 0.5) / _MOST)
    return values, below
