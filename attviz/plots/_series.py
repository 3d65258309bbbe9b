"""The series view: one aggregate along the text, between its extremes (AttViz paper, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import patheffects

from attviz.errors import ArgumentError, ShapeError
from attviz.plots._canvas import GREY, INK, RED, new_axes, open_frame, token_ticks, vectors_by_token, width_for
from attviz.plots._source import text_of
from attviz.statistics import aggregate_row

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from attviz.plots._source import Drawable
    from attviz.selecting import Documents, Heads, Layers


def series(
    diagonal: Float[np.ndarray, "*vectors num_tokens"] | Drawable,
    *,
    tokens: Sequence[str] | None = None,
    aggregate: str | ArrayLike = "mean",
    log: bool = True,
    floor: float | None = None,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    ax: Axes | None = None,
    **plot_kwargs: Any,
) -> Axes:
    """Draw one aggregate over the vectors as a line, its extremes as red dots and the other vectors as grey ones.

    Args:
        diagonal: A Capture, an Analysis or a Document; or probabilities ``[num_layers, num_heads, num_tokens]`` or
            ``[num_vectors, num_tokens]``; NaN is a gap.
        tokens: As the tokenizer spells them; without them, or for more than 140, the axis shows positions.
        aggregate: ``"mean"``, ``"std"``, ``"max"``, ``"min"``, ``"range"``, ``"entropy"``, ``"binned entropy"``,
            ``"shannon entropy"``, or one value per token.
        log: Logarithmic axis. Values below ``floor``, zero included, are drawn as an open caret on it.
        floor: Lowest value of the logarithmic axis; None takes the power of ten below the 2 % quantile.
        layers: Layers to draw: one or several indices, slices, names or glob patterns; None draws all. Not for an array.
        heads: Heads to draw: one or several indices or slices. Not for an array.
        documents: The text to draw, if the source holds several. Not for an array.
        ax: Where to draw; None makes a figure wide enough for the tokens.
        **plot_kwargs: For the line (``Axes.plot``).

    Returns:
        The axes.

    Raises:
        ShapeError: If the tokens, the diagonal and the aggregate differ in length.
        ArgumentError: If a value is not a probability, or the aggregate or the floor is invalid.
    """
    drawn, tokens, *_ = text_of(diagonal, tokens, "plots.series", layers, heads, documents)
    values = vectors_by_token(drawn, tokens, "plots.series")
    name, line = _line(values, aggregate)
    ax = new_axes(ax, width_for(values.shape[1]), 3.6)
    positions = np.arange(values.shape[1])
    lowest = _floor(values, line, floor) if log else None
    highest, least = aggregate_row(values, "max"), aggregate_row(values, "min")
    _scatter(ax, values, highest, least, lowest)
    shown = line if lowest is None else np.maximum(line, lowest)
    halo = [patheffects.Stroke(linewidth=3.6, foreground="white"), patheffects.Normal()]  # keeps the line apart from dense dots
    style: dict[str, Any] = {"color": INK, "linewidth": 1.6, "zorder": 4, "label": name, "path_effects": halo} | plot_kwargs
    if values.shape[1] == 1:
        style.setdefault("marker", "o")  # a line of one point would not be seen
    ax.plot(positions, shown, **style)
    _finish(ax, values, lowest)
    token_ticks(ax, tokens, values.shape[1])
    return ax


def _line(values: np.ndarray, aggregate: str | ArrayLike) -> tuple[str, np.ndarray]:
    if isinstance(aggregate, str):
        return aggregate, aggregate_row(values, aggregate, who="plots.series")
    line = np.asarray(aggregate, dtype=np.float64)
    if line.shape != (values.shape[1],):
        raise ShapeError(
            f"plots.series: aggregate must hold one value per token, got shape {list(line.shape)} for num_tokens={values.shape[1]}."
        )
    return "aggregate", line


def _floor(values: np.ndarray, line: np.ndarray, floor: float | None) -> float:
    """The power of ten below the 2 % quantile of what is above zero, so that one tiny value does not squeeze the rest."""
    if floor is not None:
        if not floor > 0:
            raise ArgumentError(
                f"plots.series: floor must be above 0 on a logarithmic axis, got {floor!r}. Pass log=False for a linear one."
            )
        return float(floor)
    seen = np.concatenate([values.ravel(), line])
    seen = seen[seen > 0]
    return float(10.0 ** np.floor(np.log10(np.quantile(seen, 0.02)))) if seen.size else 1e-4


def _scatter(ax: Axes, values: np.ndarray, highest: np.ndarray, least: np.ndarray, lowest: float | None) -> None:
    num_vectors, num_tokens = values.shape
    extreme = (values == highest) | (values == least)
    columns = np.broadcast_to(np.arange(num_tokens), values.shape)
    hidden = np.zeros_like(extreme) if lowest is None else values < lowest
    other = ~extreme & ~hidden & ~np.isnan(values)
    if num_vectors > 2 and other.any():
        dots: dict[str, Any] = {"s": 5 if num_vectors <= 16 else 3, "color": GREY, "linewidths": 0, "rasterized": bool(other.sum() > 4000)}
        ax.scatter(columns[other], values[other], label="other vectors", zorder=2, **dots)
    shown = extreme & ~hidden
    ax.scatter(columns[shown], values[shown], s=11 if num_tokens <= 200 else 5, color=RED, linewidths=0, zorder=3, label="max and min")
    if hidden.any() and lowest is not None:
        below = np.unique(columns[hidden])
        caret: dict[str, Any] = {"marker": "v", "s": 14, "facecolors": "none", "edgecolors": RED, "linewidths": 0.7, "clip_on": False}
        ax.scatter(below, np.full(below.size, lowest), zorder=5, label=f"below {lowest:.0e}".replace("e-0", "e-"), **caret)


def _finish(ax: Axes, values: np.ndarray, lowest: float | None) -> None:
    open_frame(ax)
    ax.set_ylabel("attention to own position\n(probability)")
    if lowest is None:
        ax.set_ylim(bottom=0)
    else:
        ax.set_yscale("log")
        ax.set_ylim(lowest, max(2 * lowest, 1.25 * np.nanmax(values, initial=lowest)))
    ax.grid(axis="y", color="#eceef2", linewidth=0.8, zorder=0)
    ax.set_axisbelow(True)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=8, handletextpad=0.4)
