"""The diagonal of a vision model over the image: one value per patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.documents import Diagonals, only_text
from attviz.errors import ArgumentError, ShapeError
from attviz.plots._canvas import PROBABILITY_ON_BAR, new_axes
from attviz.plots._source import text_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes


def image_map(
    values: Float[np.ndarray, " num_tokens"] | Diagonals,
    *,
    grid: tuple[int, int] | None = None,
    layer: int | None = None,
    head: int | None = None,
    image: Float[np.ndarray, "height width *channels"] | None = None,
    alpha: float = 0.65,
    label: str = PROBABILITY_ON_BAR,
    cmap: str = "viridis",
    ax: Axes | None = None,
    **imshow_kwargs: Any,
) -> Axes:
    """Draw one value per patch as a heat map, over the image when it is given.

    Args:
        values: One per token; or a Capture, a Document or an Analysis of one image, of which the mean over layers and heads is drawn.
            Tokens before the patches ([CLS], registers) are left out: the last ``rows * columns`` are drawn.
        grid: (rows, columns) of the patches; a Document of :func:`attviz.analyze` knows its own.
        layer: Of a Capture, Document or Analysis, this layer only.
        head: This head only.
        image: Grey or RGB, as ``Axes.imshow`` takes it; stretched to the grid.
        alpha: Of the heat map over the image.
        label: What the colour means.
        cmap: A colour map.
        ax: Where to draw.
        **imshow_kwargs: For the heat map (``Axes.imshow``).

    Returns:
        The axes.

    Raises:
        ShapeError: If there are fewer values than patches, or they are not in a row.
    """
    values, grid = _patches(values, grid, layer, head)
    rows, columns = grid
    if values.ndim != 1 or rows < 1 or columns < 1 or len(values) < rows * columns:
        raise ShapeError(
            f"plots.image_map: values must hold at least {rows} x {columns} patches in one row, got shape {list(values.shape)}."
        )
    ax = new_axes(ax, 5.0, 4.2)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    if image is not None:
        ax.imshow(image, extent=extent, cmap="gray")
    style: dict[str, Any] = {"cmap": cmap, "extent": extent, "alpha": alpha if image is not None else 1.0, "interpolation": "nearest"}
    drawn = ax.imshow(values[-rows * columns :].reshape(rows, columns), **(style | imshow_kwargs))
    ax.figure.colorbar(drawn, ax=ax, label=label)
    ax.set(xlabel="patch column", ylabel="patch row")
    return ax


def _patches(values: Any, grid: tuple[int, int] | None, layer: int | None, head: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    """One value per token, and the grid; of whatever holds diagonals, the mean over the chosen layers and heads."""
    found, tokens = text_of(values, None, "plots.image_map")
    if tokens is not None:
        document = only_text(values, "plots.image_map")
        grid = grid or document.grid
        for what, chosen, count in (("layer", layer, found.shape[0]), ("head", head, found.shape[1])):
            if chosen is not None and not 0 <= chosen < count:
                raise ArgumentError(f"plots.image_map: {what} {chosen} does not exist: there are {count}.")
        found = document.diagonal.astype(np.float64)
        found = found if layer is None else found[layer : layer + 1]
        found = found if head is None else found[:, head : head + 1]
        found = found.mean((0, 1))
    elif layer is not None or head is not None:
        raise ArgumentError("plots.image_map: layer= and head= choose from a Capture, Document or Analysis; an array is drawn as it is.")
    if grid is None:
        raise ArgumentError("plots.image_map: give grid=(rows, columns) of the patches, such as (14, 14) for 224 pixels and patches of 16.")
    return np.asarray(found, dtype=np.float64), grid
