"""The diagonal of a vision model over the image: one value per patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ShapeError
from attviz.plots._canvas import PROBABILITY_ON_BAR, new_axes

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes


def image_map(
    values: Float[np.ndarray, " num_tokens"],
    *,
    grid: tuple[int, int],
    image: Float[np.ndarray, "height width *channels"] | None = None,
    alpha: float = 0.65,
    label: str = PROBABILITY_ON_BAR,
    cmap: str = "viridis",
    ax: Axes | None = None,
    **imshow_kwargs: Any,
) -> Axes:
    """Draw one value per patch as a heat map, over the image when it is given.

    Args:
        values: One per token. Tokens before the patches ([CLS], registers) are left out: the last ``rows * columns`` are drawn.
        grid: (rows, columns) of the patches.
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
    rows, columns = grid
    values = np.asarray(values, dtype=np.float64)
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
