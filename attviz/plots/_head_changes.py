"""What changed between two models: a map of all heads, and the heads that changed most with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np

from attviz.errors import ShapeError
from attviz.plots._canvas import GREY, INK, open_frame

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

_SHOWN = 12


def head_changes(
    difference: Float[np.ndarray, "num_layers num_heads"],
    *,
    low: Float[np.ndarray, "num_layers num_heads"],
    high: Float[np.ndarray, "num_layers num_heads"],
    names: Sequence[str] = ("a", "b"),
    k: int = _SHOWN,
    label: str = "attention to own position",
    axes: Sequence[Axes] | None = None,
    **imshow_kwargs: Any,
) -> np.ndarray:
    """Draw the difference of each head as a map, and next to it the ``k`` largest with their intervals.

    Colours run from blue (less) through white to red (more), symmetrically. A head whose interval contains 0 has a grey cross in the
    map and a grey bar.

    Args:
        difference: Last model minus first.
        low: Lower ends of the intervals; NaN if there is none.
        high: Upper ends.
        names: Names of the first and the last model.
        k: At most this many heads in the right part.
        label: What the means are of.
        axes: Two, to draw on.
        **imshow_kwargs: For the map (``Axes.imshow``).

    Returns:
        The two axes.

    Raises:
        ShapeError: If the three do not have one shape ``[num_layers, num_heads]``, or ``axes`` are not two.

    Example:
        >>> import numpy as np
        >>> change = np.array([[0.1, -0.02]])
        >>> left, right = head_changes(change, low=change - 0.05, high=change + 0.05)
        >>> right.get_yticklabels()[0].get_text()
        'L0 H0'
    """
    values, ends = np.asarray(difference, dtype=np.float64), (np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64))
    if values.ndim != 2 or not values.size or any(end.shape != values.shape for end in ends):
        shapes = [list(np.shape(value)) for value in (difference, low, high)]
        raise ShapeError(f"plots.head_changes: difference, low and high must be [num_layers, num_heads] alike, got {shapes}.")
    if axes is not None and len(axes) != 2:
        raise ShapeError(f"plots.head_changes: axes must be two, got {len(axes)}.")
    num_layers, num_heads = values.shape
    count = min(k, values.size)
    if axes is None:
        height = float(np.clip(1.2 + 0.3 * max(num_layers, count), 3, 11))
        axes = plt.subplots(1, 2, figsize=(float(np.clip(5 + 0.42 * num_heads, 7, 15)), height), layout="constrained")[1]
    pair = np.asarray(axes, dtype=object)
    certain = (ends[0] > 0) | (ends[1] < 0)
    _map(pair[0], values, certain, names, label, imshow_kwargs)
    _largest(pair[1], values, ends, certain, count, names)
    return pair


def _map(ax: Axes, values: np.ndarray, certain: np.ndarray, names: Sequence[str], label: str, options: dict[str, Any]) -> None:
    reach = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    style: dict[str, Any] = {"vmin": -reach, "vmax": reach, "cmap": "RdBu_r", "aspect": "auto"} | options
    image = ax.imshow(values, **style)
    ax.figure.colorbar(image, ax=ax, label=f"change of the mean {label},\n{names[-1]} - {names[0]}")
    layer, head = np.nonzero(~certain)
    ax.scatter(head, layer, marker="x", s=14, color=GREY, linewidths=0.8)
    ax.set(xlabel="head", ylabel="layer")
    for count, ticks in ((values.shape[1], ax.set_xticks), (values.shape[0], ax.set_yticks)):
        ticks(range(0, count, 1 if count <= 16 else 4))


def _largest(
    ax: Axes, values: np.ndarray, ends: tuple[np.ndarray, np.ndarray], certain: np.ndarray, count: int, names: Sequence[str]
) -> None:
    order = np.argsort(-np.abs(values), axis=None, kind="stable")[:count]
    places = np.arange(count)
    for place, head in zip(places.tolist(), order.tolist(), strict=True):
        color = INK if certain.flat[head] else GREY
        ax.plot([ends[0].flat[head], ends[1].flat[head]], [place, place], color=color, linewidth=1.6)
        ax.plot(values.flat[head], place, "o", color=color, markersize=4)
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_yticks(places, [f"L{head // values.shape[1]} H{head % values.shape[1]}" for head in order.tolist()])
    ax.set(xlabel=f"change, {names[-1]} - {names[0]}, with interval (grey: contains 0)", ylim=(count - 0.5, -0.5))
    ax.locator_params(axis="x", nbins=5)
    open_frame(ax)
