"""Layers down, heads across: one number per head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ShapeError
from attviz.plots._canvas import PROBABILITY_ON_BAR, new_axes
from attviz.plots._source import source_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from attviz.plots._source import Drawable
    from attviz.selecting import Documents, Heads, Layers

_MOST_WRITTEN = 200  # cells with their number in them


def head_map(
    values: Float[np.ndarray, "num_layers num_heads"] | Drawable,
    *,
    label: str = f"mean {PROBABILITY_ON_BAR}",
    vmin: float | None = 0.0,
    vmax: float | None = None,
    cmap: str = "viridis",
    annotate: bool | None = None,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    ax: Axes | None = None,
    **imshow_kwargs: Any,
) -> Axes:
    """Draw one number per head as a colour: layers down, heads across.

    Args:
        values: One number per head; or a Capture, an Analysis or Documents: the mean diagonal of each head, without special tokens.
        label: What the colour means, with its unit.
        vmin: Lower end of the colours.
        vmax: Upper end; None takes the largest value. Give 1 to compare models.
        cmap: A colour map; viridis is safe for the colour-blind.
        annotate: Write the numbers into the cells; None does so up to 200 heads.
        layers: Layers that count: one or several indices, slices, names or glob patterns; None counts all. Not for an array.
        heads: Heads that count: one or several indices or slices. Not for an array.
        documents: Documents that count: one or several indices or slices. Not for an array.
        ax: Where to draw.
        **imshow_kwargs: For ``Axes.imshow``.

    Returns:
        The axes.

    Raises:
        ShapeError: If ``values`` is not a non-empty matrix.
    """
    source = source_of(values, "plots.head_map", layers, heads, documents)
    values = np.asarray(values if source is None else source.head_means(), dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ShapeError(f"plots.head_map: values must be [num_layers, num_heads] and not empty, got shape {list(values.shape)}.")
    num_layers, num_heads = values.shape
    ax = new_axes(ax, float(np.clip(1.9 + 0.42 * num_heads, 4.2, 12)), float(np.clip(0.9 + 0.34 * num_layers, 2.4, 10)))
    image = ax.imshow(values, **({"vmin": vmin, "vmax": vmax, "cmap": cmap, "aspect": "auto"} | imshow_kwargs))
    ax.figure.colorbar(image, ax=ax, label=label)
    ax.set(xlabel="head", ylabel="layer")
    layer_numbers, head_numbers = (range(num_layers), range(num_heads)) if source is None else source.numbers
    ax.set_xticks(_ticks(num_heads), [str(head_numbers[head]) for head in _ticks(num_heads)])
    ax.set_yticks(_ticks(num_layers), [str(layer_numbers[layer]) for layer in _ticks(num_layers)])
    if annotate if annotate is not None else values.size <= _MOST_WRITTEN:
        _write(ax, values, image)
    return ax


def _ticks(count: int) -> range:
    """At most two dozen positions, a power of two apart."""
    step = 1
    while count > 24 * step:
        step *= 2
    return range(0, count, step)


def _write(ax: Axes, values: np.ndarray, image: Any) -> None:
    """Numbers in white on dark cells and in black on light ones."""
    shades = image.cmap(image.norm(np.nan_to_num(values)))
    bright = shades[..., :3] @ np.array([0.299, 0.587, 0.114])
    for (layer, head), value in np.ndenumerate(values):
        text = "" if np.isnan(value) else f"{value:.2f}".removeprefix("0") if 0 <= value < 1 else f"{value:.2g}"
        color = "black" if bright[layer, head] > 0.5 else "white"
        ax.text(head, layer, text, ha="center", va="center", fontsize=6.5, color=color)
