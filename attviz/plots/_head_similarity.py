"""How similar the rankings of the heads are, with the level of chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz import clustering
from attviz.errors import ShapeError
from attviz.plots._canvas import INK, new_axes
from attviz.plots._source import source_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from attviz.plots._source import Drawable
    from attviz.selecting import Documents, Heads, Layers

_MOST_NAMED = 48


def head_similarity(
    similarity: Float[np.ndarray, "num_heads num_heads"] | Drawable,
    *,
    names: Sequence[str] | None = None,
    null: float | None = None,
    cluster: bool = True,
    label: str = "similarity of rankings (AUFUJI)",
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = "viridis",
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    ax: Axes | None = None,
    **imshow_kwargs: Any,
) -> Axes:
    """Draw the similarity of every pair of heads as the lower triangle of a heat map, with similar heads next to each other.

    Args:
        similarity: Symmetric matrix, such as that of :func:`attviz.metrics.fuji_matrix`, or its z-scores. Or a Capture, an
            Analysis or Documents: AUFUJI of the mean diagonals of their tokens, and its null.
        names: One per head, such as ``"3.7"``; None counts them.
        null: Level of chance (mean of a permutation null), drawn as a line in the colour bar. For FUJI it is not 0.
        cluster: Order the heads by average linkage; False keeps the order given.
        label: What the colour means.
        vmin: Lower end of the colours; None takes the smallest value off the diagonal.
        vmax: Upper end; None takes the largest value off the diagonal.
        cmap: A colour map.
        layers: Layers that count: one or several indices, slices, names or glob patterns; None counts all. Not for an array.
        heads: Heads that count: one or several indices or slices. Not for an array.
        documents: Documents that count: one or several indices or slices. Not for an array.
        ax: Where to draw.
        **imshow_kwargs: For ``Axes.imshow``.

    Returns:
        The axes.

    Raises:
        ShapeError: If the matrix is not square, holds fewer than two heads, or the names do not fit.
    """
    source = source_of(similarity, "plots.head_similarity", layers, heads, documents)
    if source is not None:
        similarity, names, null = source.similarity(names, null)
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ShapeError(
            f"plots.head_similarity: similarity must be a square matrix of at least two heads, got shape {list(matrix.shape)}."
        )
    if names is not None and len(names) != len(matrix):
        raise ShapeError(f"plots.head_similarity: names must be one per head, got {len(names)} names for {len(matrix)} heads.")
    order, shown = _lower_triangle(matrix, cluster)
    side = float(np.clip(2.6 + 0.11 * len(matrix), 4.4, 11))
    ax = new_axes(ax, side + 0.9, side)
    low = np.nanmin(shown) if vmin is None else vmin
    if null is not None and vmin is None:
        low = min(low, null)
    limits: dict[str, Any] = {"vmin": low, "vmax": vmax, "cmap": cmap}
    image = ax.imshow(shown, **(limits | {"aspect": "equal", "interpolation": "nearest"} | imshow_kwargs))
    bar = ax.figure.colorbar(image, ax=ax, label=label, shrink=0.8)
    if null is not None:
        _mark_chance(bar.ax, null)
    _name(ax, [names[place] if names is not None else str(place) for place in order.tolist()])
    return ax


def _lower_triangle(matrix: np.ndarray, cluster: bool) -> tuple[np.ndarray, np.ndarray]:
    """The order of the heads, and the similarities of different heads in it, each once."""
    order = clustering.cluster(matrix).order if cluster else np.arange(len(matrix))
    ordered = matrix[np.ix_(order, order)]
    return order, np.where(np.tril(np.ones_like(ordered, dtype=bool), -1), ordered, np.nan)[1:, :-1]


def _mark_chance(bar: Axes, null: float) -> None:
    """A line across the colour bar, dark on white so that it can be seen on every colour."""
    bar.axhline(null, color="white", linewidth=3)
    bar.axhline(null, color=INK, linewidth=1.2)
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "center"}
    bar.annotate("chance", (0, null), xytext=(-3, 0), fontsize=7, **place)  # type: ignore[arg-type]


def _name(ax: Axes, names: Sequence[str]) -> None:
    # A source with too many heads to name is compared layer by layer (_source.py).
    layers = all(name.startswith("layer ") for name in names)
    kind = "layer (mean of its heads)" if layers else "head (layer.head)" if any("." in name for name in names) else "head"
    names = [name.removeprefix("layer ") for name in names]
    every = 1 if len(names) <= _MOST_NAMED else 2 if len(names) <= 2 * _MOST_NAMED else 4
    size = 7 if every == 1 else 5.5
    ax.set_xticks(range(0, len(names) - 1, every), names[:-1:every], rotation=90, fontsize=size)
    ax.set_yticks(range(0, len(names) - 1, every), names[1::every], fontsize=size)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=2)
    ax.set(xlabel=kind, ylabel=kind)
