"""What each head is for: layers down, heads across, one colour per role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch

from attviz.errors import ArgumentError
from attviz.metrics.roles_table import NONE, UNCERTAIN, RolesTable
from attviz.plots._canvas import GREY, INK, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's hues; each role keeps its own in every figure.
_HUES = {
    "own": "#0072b2",
    "previous": "#c95400",
    "next": "#56b4e9",
    "first": "#9a6a00",
    "special": "#b24c86",
    "duplicate": "#7a7200",
    "induction": "#00855f",
}
_MOST_WRITTEN = 400


def head_roles(table: RolesTable, *, annotate: bool | None = None, ax: Axes | None = None, **text_kwargs: Any) -> Axes:
    """Draw the role of each head as a colour, stronger for more attention; uncertain heads are hatched and grey.

    The number in a cell is the mean attention to the keys of the role, in percent. Heads without a role stay empty.

    Args:
        table: The result of :func:`attviz.head_roles` or :class:`attviz.metrics.HeadRoles`.
        annotate: Write the numbers; None does so up to 400 heads.
        ax: Where to draw.
        **text_kwargs: For the numbers (``Axes.text``).

    Returns:
        The axes.

    Raises:
        ArgumentError: If ``table`` is of another type.
    """
    if not isinstance(table, RolesTable):
        raise ArgumentError(f"plots.head_roles: needs the result of attviz.head_roles, got {type(table).__name__}.")
    num_layers, num_heads = table.null.shape
    size = float(np.clip(2.6 + 0.5 * num_heads, 4.6, 14)), float(np.clip(1.0 + 0.4 * num_layers, 2.4, 12))
    ax = new_axes(ax, *size)
    labels, shown = table.labels, set()
    for layer, row in enumerate(labels):
        for head, label in enumerate(row):
            if label == NONE or np.isnan(float(table.null[layer, head])):
                continue
            shown.add(label)
            candidate = table.roles.index(table.candidate(layer, head))
            mass = float(table.mass[candidate, layer, head])
            _cell(ax, layer, head, label, mass)
            if annotate if annotate is not None else table.null.numel() <= _MOST_WRITTEN:
                style: dict[str, Any] = {"fontsize": 7, "color": INK, "ha": "center", "va": "center"} | text_kwargs
                ax.text(head, layer, f"{100 * mass:.0f}", **style)
    ax.set(xlim=(-0.5, num_heads - 0.5), ylim=(num_layers - 0.5, -0.5), xlabel="head", ylabel="layer")
    ax.set_xticks(range(0, num_heads, 1 if num_heads <= 16 else 4))
    ax.set_yticks(range(0, num_layers, 1 if num_layers <= 16 else 4))
    ax.set_xticks(np.arange(-0.5, num_heads), minor=True)
    ax.set_yticks(np.arange(-0.5, num_layers), minor=True)
    ax.grid(which="minor", color="#e4e7ec", linewidth=0.6)
    ax.tick_params(which="both", length=0)
    keys = [_key(label) for label in (*table.roles, UNCERTAIN) if label in shown] or [Patch(facecolor="none", label="no role stands out")]
    ax.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    return ax


def _cell(ax: Axes, layer: int, head: int, label: str, mass: float) -> None:
    from matplotlib.patches import Rectangle

    corner = (head - 0.5, layer - 0.5)
    if label == UNCERTAIN:
        ax.add_patch(Rectangle(corner, 1, 1, facecolor="#f3f4f6", edgecolor=GREY, hatch="////", linewidth=0))
    else:
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=_HUES[label], alpha=0.25 + 0.65 * min(1.0, mass), linewidth=0))


def _key(label: str) -> Patch:
    if label == UNCERTAIN:
        return Patch(facecolor="#f3f4f6", edgecolor=GREY, hatch="////", label="uncertain")
    return Patch(facecolor=_HUES[label], alpha=0.8, label=label)
