"""What every figure shares: its colours, its checks of the input, a new pair of axes, and tokens as tick labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from attviz.errors import ArgumentError, ShapeError
from attviz.plots._fonts import drawable, fallback_families
from attviz.spelling import readable_labels, shorten

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

INK, GREY, RED, BLUE, HIGHLIGHT = "#16181d", "#98a1b1", "#c9283e", "#0072b2", "#ffc629"
# Okabe and Ito's hues, the pale ones darkened to carry on white.
HUES = ("#0072b2", "#c95400", "#00855f", "#b24c86", "#9a6a00", "#1a7fbb", "#7a7200", "#16181d")
PROBABILITY = "attention to own position (probability)"
PROBABILITY_ON_BAR = "attention to own position\n(probability)"
_MAX_NAMED_TICKS = 140


def vectors_by_token(diagonal: ArrayLike, tokens: Sequence[str] | None, who: str) -> Float[np.ndarray, "num_vectors num_tokens"]:
    """Flatten layers and heads into one axis of vectors and check the values.

    Raises:
        ShapeError: If there is no token axis, nothing to draw, or the number of tokens differs.
        ArgumentError: If a value lies outside [0, 1]; NaN means a missing value and passes.
    """
    values = np.asarray(diagonal, dtype=np.float64)
    if values.ndim == 0 or values.size == 0:
        raise ShapeError(f"{who}: diagonal must be [num_layers, num_heads, num_tokens] and not empty, got shape {list(values.shape)}.")
    if values.ndim > 3:
        raise ShapeError(
            f"{who}: shows one text, but a diagonal of shape {list(values.shape)} is a batch, whose texts would be pooled as if they were "
            "heads. Pass one text, cap.documents[0] or cap.diagonal[:, 0]."
        )
    values = values.reshape(-1, values.shape[-1])
    if tokens is not None and len(tokens) != values.shape[1]:
        raise ShapeError(
            f"{who}: tokens and diagonal must agree, got {len(tokens)} tokens and a diagonal of num_tokens={values.shape[1]}."
            "\n  Pass all tokens the model saw, special ones included."
        )
    if ((values < 0) | (values > 1)).any():
        raise ArgumentError(
            f"{who}: the diagonal holds probabilities in [0, 1], got values from {np.nanmin(values):.4g} to {np.nanmax(values):.4g}."
        )
    return values


def choice(value: str, options: Sequence[str], what: str, who: str) -> str:
    """The value, if it is among the options.

    Raises:
        ArgumentError: If it is not; the message lists them all.
    """
    if value not in options:
        raise ArgumentError(f"{who}: {what} must be one of {', '.join(map(repr, options))}; got {value!r}.")
    return value


def new_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes given, or those of a new figure of this size in inches."""
    if ax is not None:
        return ax
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def width_for(num_tokens: int, *, per_token: float = 0.17, least: float = 6.4, most: float = 16.0) -> float:
    """Width in inches at which the names of that many tokens can be read on an axis."""
    return float(np.clip(1.2 + per_token * num_tokens, least, most))


def token_ticks(ax: Axes, tokens: Sequence[str] | None, num_tokens: int) -> None:
    """Name each token on the x axis, or number them where names would not fit."""
    ax.set_xlim(-0.7, num_tokens - 0.3)
    if tokens is None or num_tokens > _MAX_NAMED_TICKS:
        ax.set_xlabel("token index")
        return
    labels = token_labels(tokens)
    ax.set_xticks(range(num_tokens), labels, rotation=90, fontsize=7.5, fontfamily=fallback_families(labels), parse_math=False)
    ax.tick_params(axis="x", length=2, pad=2)


def token_labels(tokens: Sequence[str], columns: int = 22) -> list[str]:
    """Tokens as tick labels: spelled for a reader, shortened in the middle, without a glyph that cannot be drawn."""
    return [drawable(shorten(label, columns)) for label in readable_labels(tokens)]


def open_frame(ax: Axes) -> None:
    """Keep the two axis lines that carry ticks."""
    ax.spines[["top", "right"]].set_visible(False)
