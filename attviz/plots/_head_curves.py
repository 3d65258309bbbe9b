"""A series of checkpoints: the mean of each layer over the steps, with its heads behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ShapeError
from attviz.plots._canvas import PROBABILITY_ON_BAR, new_axes, open_frame

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

_MOST_NAMED = 12


def head_curves(
    mean: Float[np.ndarray, "num_steps num_layers num_heads"],
    *,
    steps: Sequence[float] | None = None,
    low: Float[np.ndarray, "num_steps num_layers num_heads"] | None = None,
    high: Float[np.ndarray, "num_steps num_layers num_heads"] | None = None,
    layers: Sequence[str] | None = None,
    label: str = f"mean {PROBABILITY_ON_BAR}",
    ax: Axes | None = None,
    **plot_kwargs: Any,
) -> Axes:
    """Draw the mean of each layer over its heads as a line over the steps, with the heads as thin lines and intervals behind it.

    Args:
        mean: One number per head and step.
        steps: Positions on the axis; counted from 0 by default.
        low: Lower ends of the intervals of the heads; NaN draws none.
        high: Upper ends.
        layers: Names for the legend; numbers by default.
        label: What is drawn, with its unit.
        ax: Where to draw.
        **plot_kwargs: For the lines of the layers (``Axes.plot``).

    Returns:
        The axes.

    Raises:
        ShapeError: If the arrays or names do not fit.

    Example:
        >>> import numpy as np
        >>> ax = head_curves(np.random.default_rng(0).random((3, 2, 4)), steps=[0, 100, 200])
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['layer 0', 'layer 1']
    """
    import matplotlib as mpl

    values = np.asarray(mean, dtype=np.float64)
    axis = np.arange(len(values)) if steps is None else np.asarray(steps, dtype=np.float64)
    _check(values, {"steps": axis, "layers": layers}, {"low": low, "high": high})
    ax = new_axes(ax, 6.8, 4.0)
    num_layers = values.shape[1]
    hues = mpl.colormaps["viridis"](np.linspace(0, 0.88, num_layers))
    for layer in range(num_layers):
        for head in range(values.shape[2]):
            ax.plot(axis, values[:, layer, head], color=hues[layer], linewidth=0.6, alpha=0.45)
            if low is not None and high is not None:
                ax.fill_between(axis, low[:, layer, head], high[:, layer, head], color=hues[layer], alpha=0.06, linewidth=0)
        name = f"layer {layer}" if layers is None else layers[layer]
        style: dict[str, Any] = {"color": hues[layer], "linewidth": 2.0, "label": name} | plot_kwargs
        ax.plot(axis, np.nanmean(values[:, layer], axis=1), **style)
    ax.set(xlabel="step", ylabel=label)
    open_frame(ax)
    if num_layers <= _MOST_NAMED:
        ax.legend(frameon=False, fontsize=8)
    return ax


def _check(values: np.ndarray, named: dict[str, Any], ends: dict[str, Any]) -> None:
    """Steps and layers must be as many as the means have, the ends of the intervals of their shape."""
    if values.ndim != 3 or not values.size:
        raise ShapeError(f"plots.head_curves: mean must be [num_steps, num_layers, num_heads], got shape {list(values.shape)}.")
    for (name, given), size in zip(named.items(), values.shape, strict=False):
        if given is not None and len(given) != size:
            raise ShapeError(f"plots.head_curves: {name} has {len(given)} entries for {size}.")
    for name, end in ends.items():
        if end is not None and np.shape(end) != values.shape:
            raise ShapeError(f"plots.head_curves: {name} has shape {list(np.shape(end))}, the means {list(values.shape)}.")
