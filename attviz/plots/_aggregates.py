"""Several aggregates of one text, each in its own row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ArgumentError
from attviz.plots._canvas import GREY, HUES, new_axes, token_ticks, vectors_by_token, width_for
from attviz.plots._source import text_of
from attviz.statistics import aggregate_row

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from attviz.plots._source import Drawable
    from attviz.selecting import Documents, Heads, Layers


def aggregates(
    diagonal: Float[np.ndarray, "*vectors num_tokens"] | Drawable,
    *,
    tokens: Sequence[str] | None = None,
    kinds: Sequence[str] = ("mean", "std", "max", "min", "range", "entropy"),
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    ax: Axes | None = None,
    **bar_kwargs: Any,
) -> Axes:
    """Draw aggregates over the vectors in rows of bars, one below the other, along the text.

    Each row has its own scale, from 0 to its largest value, which is written on the right: the rows differ by orders of magnitude, so
    compare their shapes.

    Args:
        diagonal: A Capture, an Analysis or a Document; or probabilities ``[num_layers, num_heads, num_tokens]`` or
            ``[num_vectors, num_tokens]``; NaN leaves a gap.
        tokens: As the tokenizer spells them; without them, or for more than 140, the axis shows positions.
        kinds: From top to bottom; see :func:`attviz.plots.series` for the names.
        layers: Layers to draw: one or several indices, slices, names or glob patterns; None draws all. Not for an array.
        heads: Heads to draw: one or several indices or slices. Not for an array.
        documents: The text to draw, if the source holds several. Not for an array.
        ax: Where to draw; None makes a figure that fits.
        **bar_kwargs: For ``Axes.bar``.

    Returns:
        The axes.

    Raises:
        ShapeError: If tokens and diagonal differ in length.
        ArgumentError: If a value is not a probability, or an aggregate is unknown, or none is requested.
    """
    drawn, tokens, *_ = text_of(diagonal, tokens, "plots.aggregates", layers, heads, documents)
    values = vectors_by_token(drawn, tokens, "plots.aggregates")
    if not kinds:
        raise ArgumentError("plots.aggregates: kinds must name at least one aggregate.")
    ax = new_axes(ax, width_for(values.shape[1]), 0.9 + 0.55 * len(kinds))
    positions = np.arange(values.shape[1])
    for place, kind in enumerate(kinds):
        row = aggregate_row(values, kind, who="plots.aggregates")
        top = np.nanmax(np.abs(row), initial=0.0)
        base = len(kinds) - 1 - place
        style: dict[str, Any] = {"width": 0.8, "color": HUES[place % len(HUES)], "linewidth": 0} | bar_kwargs
        ax.bar(positions, 0.84 * np.nan_to_num(row) / top if top > 0 else np.zeros_like(row), bottom=base, **style)
        _scale(ax, base, top)
    token_ticks(ax, tokens, values.shape[1])
    ax.set_yticks([len(kinds) - 1 - place + 0.4 for place in range(len(kinds))], list(kinds))
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(0, len(kinds))
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def _scale(ax: Axes, base: int, top: float) -> None:
    """The ground line of a row, and the value that its height stands for."""
    ax.axhline(base, color=GREY, linewidth=0.6, zorder=0)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "top"}
    ax.annotate(f"max {top:.2g}", (1, base + 0.84), xytext=(4, 0), fontsize=7, **place)
