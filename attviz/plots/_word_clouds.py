"""One cloud of tokens per head (AttViz paper, Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np

from attviz.errors import ArgumentError
from attviz.plots._canvas import HUES
from attviz.plots._fonts import font_file
from attviz.plots._source import source_of
from attviz.spelling import shorten, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attviz.plots._source import Drawable
    from attviz.selecting import Documents, Heads, Layers


def word_clouds(
    frequencies: Sequence[Mapping[str, float]] | Drawable,
    *,
    names: Sequence[str] | None = None,
    max_words: int = 60,
    columns: int | None = None,
    random_state: int = 0,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    axes: Sequence[Axes] | None = None,
    **cloud_kwargs: Any,
) -> np.ndarray:
    """Draw one word cloud per head: the larger a token's weight, the larger it is written.

    The clouds are made from the weights themselves, so no list of stop words silently drops a token, and the same weights give the same
    picture. The weights are the caller's choice: how often a token is in the top third of a head's occurrences (the paper), its mean, or
    its sum.

    Args:
        frequencies: For each head, token -> weight; tokens as a reader should see them, weights of at least 0. Or a Capture, an Analysis
            or Documents: the nine heads with the largest mean diagonal, weights as in the paper.
        names: A title for each.
        max_words: At most this many tokens per cloud, the heaviest first.
        columns: Clouds side by side; None chooses.
        random_state: Seed of the layout and the colours.
        layers: Layers that count: one or several indices, slices, names or glob patterns; None counts all. Not for weights of your own.
        heads: Heads that count: one or several indices or slices. Not for weights of your own.
        documents: Documents that count: one or several indices or slices. Not for weights of your own.
        axes: One per cloud; None makes a figure.
        **cloud_kwargs: For ``wordcloud.WordCloud``.

    Returns:
        An array of the axes, one per head.

    Raises:
        ArgumentError: If there is no head, a weight is negative or not finite, or names or axes do not match.
    """
    source = source_of(frequencies, "plots.word_clouds", layers, heads, documents)
    clouds: Any = frequencies
    if source is not None:
        clouds, found = source.clouds()
        names = found if names is None else names
    if not clouds:
        raise ArgumentError("plots.word_clouds: frequencies must hold at least one head.")
    for what, given in (("names", names), ("axes", axes)):
        if given is not None and len(given) != len(clouds):
            raise ArgumentError(f"plots.word_clouds: {what} must be one per head, got {len(given)} for {len(clouds)} heads.")
    grid = np.asarray(_new_grid(len(clouds), columns) if axes is None else axes, dtype=object)
    font = font_file([word for cloud in clouds for word in cloud])
    for place, (ax, weights) in enumerate(zip(grid, clouds, strict=True)):
        _draw(ax, _checked(weights, place), {"max_words": max_words, "random_state": random_state, "font_path": font} | cloud_kwargs)
        if names is not None:
            ax.set_title(names[place], fontsize=9, parse_math=False)
    return grid


def _new_grid(count: int, columns: int | None) -> list[Axes]:
    columns = min(count, columns or (3 if count <= 9 else 4))
    rows = -(-count // columns)
    _, grid = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.2 * rows), layout="constrained", squeeze=False)
    for ax in grid.flat[count:]:
        ax.set_axis_off()
    return list(grid.flat[:count])


def _checked(weights: Mapping[str, float], place: int) -> dict[str, float]:
    for token, weight in weights.items():
        if not (np.isfinite(weight) and weight >= 0):
            raise ArgumentError(f"plots.word_clouds: weights must be finite and at least 0, head {place} has {weight} for {token!r}.")
    return {shorten(visible(token), 24): float(weight) for token, weight in weights.items() if weight > 0}


def _draw(ax: Axes, weights: Mapping[str, float], options: dict[str, Any]) -> None:
    from wordcloud import WordCloud

    ax.set_axis_off()
    if not weights:
        ax.text(0.5, 0.5, "no token has any weight", ha="center", va="center", fontsize=8, transform=ax.transAxes)
        return

    def hue(word: str, **_: Any) -> str:
        return HUES[sum(word.encode()) % len(HUES)]

    style = {"width": 620, "height": 400, "background_color": "white", "color_func": hue, "prefer_horizontal": 1.0, "relative_scaling": 0.6}
    ax.imshow(WordCloud(**(style | options)).generate_from_frequencies(weights).to_array(), interpolation="bilinear")
