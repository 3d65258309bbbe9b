"""The tokens with the largest mean diagonal (AttViz paper, Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ArgumentError, ShapeError
from attviz.plots._canvas import BLUE, INK, PROBABILITY, new_axes, open_frame, token_labels
from attviz.plots._fonts import fallback_families
from attviz.plots._source import source_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from matplotlib.axes import Axes

    from attviz.plots._source import Drawable
    from attviz.selecting import Documents, Heads, Layers


def token_bars(
    mean: Float[np.ndarray, " num_tokens"] | Drawable,
    *,
    tokens: Sequence[str] | None = None,
    std: Float[np.ndarray, " num_tokens"] | None = None,
    maximum: Float[np.ndarray, " num_tokens"] | None = None,
    count: Int[np.ndarray, " num_tokens"] | None = None,
    k: int = 35,
    min_count: int = 1,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    ax: Axes | None = None,
    **bar_kwargs: Any,
) -> Axes:
    """Draw the ``k`` tokens with the largest mean: bar = mean, line = mean ± std within [0, 1], pale bar = maximum.

    Args:
        mean: Mean diagonal of each token of a vocabulary; or a Capture, an Analysis or Documents, which provide everything but ``k``.
        tokens: As the tokenizer spells them, without special ones.
        std: Standard deviation of each.
        maximum: Largest diagonal of each.
        count: Occurrences of each, written after the token.
        k: At most this many bars.
        min_count: Leave out tokens that occur more rarely; it needs ``count``.
        layers: Layers that count: one or several indices, slices, names or glob patterns; None counts all. Not for an array.
        heads: Heads that count: one or several indices or slices. Not for an array.
        documents: Documents that count: one or several indices or slices. Not for an array.
        ax: Where to draw.
        **bar_kwargs: For the bars of the means (``Axes.barh``).

    Returns:
        The axes.

    Raises:
        ShapeError: If the arrays differ in length.
        ArgumentError: If no token is left, or ``min_count`` is given without counts.
    """
    source = source_of(mean, "plots.token_bars", layers, heads, documents, min_count)
    if source is not None:
        (mean, std, maximum), tokens, count = source.vocabulary.pooled(), source.vocabulary.tokens, source.vocabulary.count
    if tokens is None:
        raise ArgumentError("plots.token_bars: needs tokens to name the bars, which an array lacks. Pass tokens=[...], or an Analysis.")
    arrays = _columns(len(tokens), mean=mean, std=std, maximum=maximum, count=count)
    chosen = _largest(arrays, k, min_count)
    ax = new_axes(ax, 6.4, 0.9 + 0.2 * len(chosen))
    places = np.arange(len(chosen))
    if "maximum" in arrays:
        ax.barh(places, arrays["maximum"][chosen], height=0.78, color=BLUE, alpha=0.3, linewidth=0, label="maximum")
    style: dict[str, Any] = {"height": 0.78, "color": BLUE, "linewidth": 0, "label": "mean"} | bar_kwargs
    ax.barh(places, arrays["mean"][chosen], **style)
    if "std" in arrays:
        _error_lines(ax, arrays["mean"][chosen], np.nan_to_num(arrays["std"][chosen]))
    _name_bars(ax, [tokens[place] for place in chosen], arrays["count"][chosen] if "count" in arrays else None)
    ax.set(xlabel=PROBABILITY, ylim=(len(chosen) - 0.4, -0.6), xlim=(0, None))
    open_frame(ax)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)
    return ax


def _columns(num_tokens: int, **columns: Any) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items() if values is not None}
    for name, values in arrays.items():
        if values.shape != (num_tokens,):
            raise ShapeError(
                f"plots.token_bars: {name} must hold one value per token, got shape {list(values.shape)} for {num_tokens} tokens."
            )
    return arrays


def _largest(arrays: dict[str, np.ndarray], k: int, min_count: int) -> np.ndarray:
    if min_count > 1 and "count" not in arrays:
        raise ArgumentError(f"plots.token_bars: min_count={min_count} needs count=.")
    if k < 1:
        raise ArgumentError(f"plots.token_bars: k must be at least 1, got {k}.")
    kept = ~np.isnan(arrays["mean"])
    if "count" in arrays:
        kept &= arrays["count"] >= min_count
    places = np.flatnonzero(kept)
    if not places.size:
        most = f"; the most frequent occurs {int(arrays['count'].max())} times" if "count" in arrays and arrays["count"].size else ""
        raise ArgumentError(f"plots.token_bars: no token is left with min_count={min_count}{most}.")
    return places[np.argsort(-arrays["mean"][places], kind="stable")][:k]


def _error_lines(ax: Axes, mean: np.ndarray, std: np.ndarray) -> None:
    reach = np.stack([mean - np.clip(mean - std, 0, 1), np.clip(mean + std, 0, 1) - mean])
    ax.errorbar(mean, np.arange(len(mean)), xerr=np.maximum(reach, 0), fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.5, label="± std")


def _name_bars(ax: Axes, tokens: Sequence[str], count: np.ndarray | None) -> None:
    labels = token_labels(tokens)
    if count is not None:
        labels = [f"{label}  ({int(times)})" for label, times in zip(labels, count, strict=True)]
    ax.set_yticks(range(len(labels)), labels, fontsize=8, fontfamily=fallback_families(labels), parse_math=False)
    ax.tick_params(axis="y", length=0)
