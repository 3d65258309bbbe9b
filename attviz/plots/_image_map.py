"""The diagonal of a vision model over the image: one value per patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.documents import Diagonals
from attviz.errors import ArgumentError, ShapeError
from attviz.plots._canvas import PROBABILITY_ON_BAR, new_axes
from attviz.plots._source import text_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from attviz.selecting import Documents, Heads, Layers


def image_map(
    values: Float[np.ndarray, " num_tokens"] | Diagonals,
    *,
    grid: tuple[int, int] | None = None,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    image: Float[np.ndarray, "height width *channels"] | None = None,
    alpha: float = 0.65,
    label: str = PROBABILITY_ON_BAR,
    cmap: str = "viridis",
    ax: Axes | None = None,
    **imshow_kwargs: Any,
) -> Axes:
    """Draw one value per patch as a heat map, over the image when it is given.

    Args:
        values: One per token; or a Capture, a Document or an Analysis, of which the mean over layers and heads is drawn.
            Tokens before the patches ([CLS], registers) are left out: the last ``rows * columns`` are drawn.
        grid: (rows, columns) of the patches; a Document of :func:`attviz.analyze` knows its own.
        layers: Layers to average: one or several indices, slices, names or glob patterns; None takes all. Not for an array.
        heads: Heads to average: one or several indices or slices. Not for an array.
        documents: The image to draw, if the source holds several. Not for an array.
        image: Grey or RGB, as ``Axes.imshow`` takes it; stretched to the grid.
        alpha: Opacity of the heat map over the image.
        label: What the colour means.
        cmap: A colour map.
        ax: Where to draw.
        **imshow_kwargs: For the heat map (``Axes.imshow``).

    Returns:
        The axes.

    Raises:
        ShapeError: If there are fewer values than patches, or they are not in a row.
        ArgumentError: If the grid is not known, or a layer, head or document does not exist.
    """
    found = text_of(values, None, "plots.image_map", layers, heads, documents)
    array = np.asarray(found.values if found.document is None else found.document.diagonal, dtype=np.float64)
    if found.document is not None:  # special tokens too: a patch is none
        array, grid = array.mean((0, 1)), grid or found.document.grid
    if grid is None:
        raise ArgumentError("plots.image_map: pass grid=(rows, columns) of the patches, such as (14, 14) for 224 pixels and patches of 16.")
    rows, columns = grid
    if array.ndim != 1 or rows < 1 or columns < 1 or len(array) < rows * columns:
        raise ShapeError(
            f"plots.image_map: values must hold at least {rows} x {columns} patches in one row, got shape {list(array.shape)}."
        )
    ax = new_axes(ax, 5.0, 4.2)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    if image is not None:
        ax.imshow(image, extent=extent, cmap="gray")
    style: dict[str, Any] = {"cmap": cmap, "extent": extent, "alpha": alpha if image is not None else 1.0, "interpolation": "nearest"}
    drawn = ax.imshow(array[-rows * columns :].reshape(rows, columns), **(style | imshow_kwargs))
    ax.figure.colorbar(drawn, ax=ax, label=label)
    ax.set(xlabel="patch column", ylabel="patch row")
    return ax
