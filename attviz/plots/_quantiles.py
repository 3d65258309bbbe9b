"""Normal quantile plots: are the values, or their logarithms, normally distributed?"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ArgumentError
from attviz.plots._canvas import GREY, HUES, new_axes, open_frame
from attviz.plots._source import source_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from attviz.plots._source import Drawable
    from attviz.selecting import Documents, Heads, Layers

_POINTS = 400


def quantiles(
    values: Mapping[str, Float[np.ndarray, " num_values"]] | Drawable,
    *,
    log: bool = True,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    ax: Axes | None = None,
    **plot_kwargs: Any,
) -> Axes:
    """Draw the quantiles of each named set against those of the normal distribution; on the line they agree.

    Values are standardised (after the logarithm if ``log``), so that sets of any scale share the line.

    Args:
        values: Name -> values; NaN, and zero if ``log``, are left out. Or a Capture, an Analysis or Documents.
        log: Take logarithms first: a straight line then means a log-normal distribution.
        layers: Layers that count: one or several indices, slices, names or glob patterns; None counts all. Not for arrays.
        heads: Heads that count: one or several indices or slices. Not for arrays.
        documents: Documents that count: one or several indices or slices. Not for arrays.
        ax: Where to draw.
        **plot_kwargs: For ``Axes.plot``.

    Returns:
        The axes.

    Raises:
        ArgumentError: If a set has fewer than two different values.
    """
    source = source_of(values, "plots.quantiles", layers, heads, documents)
    sets: Any = values if source is None else source.token_values
    if not sets:
        raise ArgumentError("plots.quantiles: values must hold at least one named array.")
    ax = new_axes(ax, 4.6, 4.2)
    reach = 0.0
    for place, (name, given) in enumerate(sets.items()):
        expected, seen = _points(np.asarray(given, dtype=np.float64).ravel(), log, name)
        reach = max(reach, float(np.abs(expected).max()))
        hue = HUES[place % len(HUES)]
        style: dict[str, Any] = {
            "marker": "osD^v"[place % 5],
            "markersize": 2.6,
            "linestyle": "",
            "color": hue,
            "label": name,
        } | plot_kwargs
        ax.plot(expected, seen, **style)
    ax.plot([-reach, reach], [-reach, reach], color=GREY, linewidth=1, zorder=0, label="normal")
    open_frame(ax)
    ax.set(xlabel="quantile of the normal distribution", ylabel=f"quantile of the standardised {'logarithm' if log else 'values'}")
    ax.legend(frameon=False, fontsize=8)
    return ax


def _points(values: np.ndarray, log: bool, name: str) -> tuple[np.ndarray, np.ndarray]:
    values = values[~np.isnan(values)]
    if log:
        values = np.log(values[values > 0])
    if values.size < 2 or np.ptp(values) == 0:
        raise ArgumentError(f"plots.quantiles: {name!r} needs at least two different values{' above 0' if log else ''}, has {values.size}.")
    count = min(values.size, _POINTS)
    shares = (np.arange(count) + 0.5) / count
    normal = NormalDist()
    expected = np.array([normal.inv_cdf(share) for share in shares])
    return expected, (np.quantile(values, shares) - values.mean()) / values.std(ddof=1)
