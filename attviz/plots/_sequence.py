"""The sequence view: the text itself, with one stroke per vector under each token (AttViz paper, Figs. 2 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from attviz.errors import ArgumentError, ShapeError
from attviz.plots._canvas import HIGHLIGHT, HUES, INK, choice, vectors_by_token
from attviz.plots._fonts import MONO, drawable, fallback_families
from attviz.plots._source import text_of
from attviz.spelling import display_width, readable_pieces, shorten

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from attviz.plots._source import Drawable
    from attviz.selecting import Documents, Heads, Layers

_SCALES = ("shared", "vector", "probability")
_MOST_NAMED_VECTORS = 24
_EM_PER_COLUMN = 0.602  # advance of a character of DejaVu Sans Mono
_LINE = 1.5  # height of a line of text, in text heights
_MOST_COLUMNS_A_TOKEN = 26


@dataclass(frozen=True, slots=True)
class _Cell:
    """Position of a token: its first column, its width, its line, and what is written."""

    text: str
    column: int
    width: int
    line: int


def sequence(
    diagonal: Float[np.ndarray, "*vectors num_tokens"] | Drawable,
    *,
    tokens: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    tint: int | ArrayLike | None = None,
    scale: str = "shared",
    columns: int = 96,
    max_tokens: int = 256,
    max_height: float = 20.0,
    fontsize: float = 9.0,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    ax: Axes | None = None,
    **line_kwargs: Any,
) -> Axes:
    """Write the tokens in lines, each with one stroke per vector below it: the stronger, the more opaque.

    Args:
        diagonal: A Capture, an Analysis or a Document; or probabilities ``[num_layers, num_heads, num_tokens]`` or
            ``[num_vectors, num_tokens]``; NaN draws no stroke.
        tokens: As the tokenizer spells them; None takes those of the source. The pieces of a word are joined.
        names: One per vector, written left of its strokes; None numbers them.
        colors: One per vector; None cycles through eight hues, or takes one per layer if there are many heads.
        tint: A vector's index, or one value per token: colours the background of the text like a highlighter.
        scale: What full opacity means: ``"shared"``, the 99 % quantile of all values; ``"vector"``, each vector's own
            maximum; ``"probability"``, 1. It is written under the figure.
        columns: Characters per line.
        max_tokens: Draw this many tokens; the figure says how many follow.
        max_height: Draw as many lines as fit this height in inches, if the figure is made here.
        fontsize: Size of the text, in points.
        layers: Layers to draw: one or several indices, slices, names or glob patterns; None draws all. Not for an array.
        heads: Heads to draw: one or several indices or slices. Not for an array.
        documents: The text to draw, if the source holds several. Not for an array.
        ax: Where to draw; None makes a figure that fits. For your own axes, choose ``columns`` and ``fontsize`` to match.
        **line_kwargs: For the strokes (``LineCollection``).

    Returns:
        The axes.

    Raises:
        ShapeError: If tokens, names, colours or tint do not fit the diagonal.
        ArgumentError: If a value is not a probability, or ``scale``, ``columns`` or ``tint`` is invalid.
    """
    drawn, tokens, _, *numbers = text_of(diagonal, tokens, "plots.sequence", layers, heads, documents)
    if tokens is None:
        raise ArgumentError("plots.sequence: needs tokens, which an array does not have. Pass tokens=[...], or a Document.")
    values = vectors_by_token(drawn, tokens, "plots.sequence")
    strengths, legend = _strengths(values, choice(scale, _SCALES, "scale", "plots.sequence"))
    labels, hues = _names_and_colors(np.shape(drawn), names, colors, numbers)
    pitch, band = _stroke_rows(values.shape[0])
    most = max(1, int((max_height * 72 / (1.1 * fontsize) - 1.2) / (_LINE + band))) if ax is None else None
    cells = [cell for cell in _layout(tokens[:max_tokens], _at_least(columns, 8, "columns")) if most is None or cell.line < most]
    num_lines = cells[-1].line + 1
    height = num_lines * (_LINE + band) + 1.2
    used = max(cell.column + cell.width for cell in cells)
    ax = _axes(ax, max(used, 48), height, fontsize, max(map(display_width, labels)))
    if tint is not None:
        _draw_tint(ax, cells, _tint_values(values, tint), band)
    _draw_text(ax, cells, band, fontsize)
    _draw_strokes(ax, cells, strengths, hues, pitch, band, line_kwargs)
    _draw_names(ax, labels, hues, num_lines, pitch, band, fontsize)
    rest = len(tokens) - len(cells)
    note = legend + (f"; {rest} more tokens are not drawn" if rest else "")
    ax.text(0, height - 0.1, note, fontsize=fontsize * 0.75, color="#646c7a", va="bottom")
    return ax


def _strengths(values: np.ndarray, scale: str) -> tuple[np.ndarray, str]:
    """Values scaled to [0, 1], and what the top of that scale means."""
    if scale == "probability":
        return values, "full colour: probability 1"
    if scale == "vector":
        top = np.nanmax(values, axis=1, keepdims=True, initial=0.0)
        return np.divide(values, top, out=np.zeros_like(values), where=top > 0), "full colour: the maximum of each vector"
    top = float(np.nanquantile(values, 0.99)) if not np.isnan(values).all() else 0.0
    scaled = np.minimum(values / top, 1.0) if top > 0 else np.zeros_like(values)
    return scaled, f"full colour: probability {top:.3g} (99 % quantile) and above"


def _names_and_colors(
    shape: tuple[int, ...], names: Sequence[str] | None, colors: Sequence[str] | None, numbers: Sequence[Sequence[int] | None]
) -> tuple[list[str], list[str]]:
    num_vectors = int(np.prod(shape[:-1], dtype=int))
    num_heads = shape[-2] if len(shape) >= 3 else 1
    layered = len(shape) >= 3 and num_vectors > len(HUES)
    if names is not None and len(names) != num_vectors:
        raise ShapeError(f"plots.sequence: names must be one per vector, got {len(names)} names for num_vectors={num_vectors}.")
    if colors is not None and len(colors) != num_vectors:
        raise ShapeError(f"plots.sequence: colors must be one per vector, got {len(colors)} colors for num_vectors={num_vectors}.")
    hues = list(colors) if colors is not None else [HUES[(v // num_heads if layered else v) % len(HUES)] for v in range(num_vectors)]
    if names is not None:
        return [drawable(str(name)) for name in names], hues
    layers, heads = (range(num_vectors) if given is None else given for given in numbers)
    if not layered and numbers[0] is None:
        return [str(vector) for vector in range(num_vectors)], hues
    if num_vectors <= _MOST_NAMED_VECTORS:
        return [f"L{layers[v // num_heads]} H{heads[v % num_heads]}" for v in range(num_vectors)], hues
    return [f"layer {layers[v // num_heads]}" if v % num_heads == 0 else "" for v in range(num_vectors)], hues


def _layout(tokens: Sequence[str], columns: int) -> list[_Cell]:
    """Break the tokens into lines: a word moves to the next line as a whole, unless it is longer than a line."""
    cells: list[_Cell] = []
    column = line = 0
    for piece in readable_pieces(tokens):
        text = shorten(drawable(piece.text, MONO), min(columns, _MOST_COLUMNS_A_TOKEN))  # a box is wider than a mark
        width = max(display_width(text), 1)
        gap = 0 if piece.continues or column == 0 else 1
        if column + gap + width > columns:
            column, line, gap = 0, line + 1, 0
        cells.append(_Cell(text, column + gap, width, line))
        column += gap + width
    return cells


def _stroke_rows(num_vectors: int) -> tuple[float, float]:
    """Distance between the strokes of one token, and the height they take together, in text heights."""
    pitch = 0.62 if num_vectors <= 8 else 0.5 if num_vectors <= _MOST_NAMED_VECTORS else min(0.16, 26 / num_vectors)
    return pitch, num_vectors * pitch + 0.7


def _axes(ax: Axes | None, columns: int, height: float, fontsize: float, label_columns: int) -> Axes:
    margin = 0.75 * label_columns + 1.5
    if ax is None:
        inch = fontsize / 72
        figure = plt.figure(figsize=((columns + margin + 1) * _EM_PER_COLUMN * inch, height * inch * 1.1 + 0.1))
        ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(-margin, columns + 1), ylim=(height, -0.6))
    ax.set_axis_off()
    return ax


def _top(line: int, band: float) -> float:
    return line * (_LINE + band)


def _draw_text(ax: Axes, cells: Sequence[_Cell], band: float, fontsize: float) -> None:
    families = fallback_families([cell.text for cell in cells], MONO)
    for cell in cells:
        place = (cell.column + cell.width / 2, _top(cell.line, band) + 1.05)
        ax.text(
            *place, cell.text, fontsize=fontsize, fontfamily=families, color=INK, ha="center", va="baseline", parse_math=False, zorder=3
        )


def _draw_tint(ax: Axes, cells: Sequence[_Cell], tint: np.ndarray, band: float) -> None:
    top = np.nanmax(tint, initial=0.0)
    for cell, value in zip(cells, tint, strict=False):
        if value > 0 and top > 0:
            corner = (cell.column - 0.15, _top(cell.line, band) + 0.1)
            ax.add_patch(Rectangle(corner, cell.width + 0.3, 1.25, color=HIGHLIGHT, alpha=float(value / top), linewidth=0, zorder=1))


def _tint_values(values: np.ndarray, tint: int | ArrayLike) -> np.ndarray:
    if isinstance(tint, (int, np.integer)):
        if not -len(values) <= tint < len(values):
            raise ArgumentError(f"plots.sequence: tint must name a vector from 0 to {len(values) - 1}, got {tint}.")
        chosen: np.ndarray = values[int(tint)]
        return chosen
    row: np.ndarray = np.asarray(tint, dtype=np.float64)
    if row.shape != (values.shape[1],):
        raise ShapeError(
            f"plots.sequence: tint must hold one value per token, got shape {list(row.shape)} for num_tokens={values.shape[1]}."
        )
    return row


def _draw_strokes(
    ax: Axes, cells: Sequence[_Cell], strengths: np.ndarray, hues: Sequence[str], pitch: float, band: float, kwargs: dict[str, Any]
) -> None:
    segments, shades = [], []
    for token, cell in enumerate(cells):
        top = _top(cell.line, band) + _LINE + 0.2
        for vector in np.flatnonzero(~np.isnan(strengths[:, token])).tolist():
            depth = top + vector * pitch
            segments.append([(cell.column + 0.05, depth), (cell.column + cell.width - 0.05, depth)])
            shades.append(to_rgba(hues[vector], 0.1 + 0.9 * float(strengths[vector, token])))
    style: dict[str, Any] = {"linewidths": 2.2 if pitch > 0.2 else 0.9, "capstyle": "butt", "zorder": 2}
    ax.add_collection(LineCollection(segments, colors=shades, **(style | kwargs)))


def _draw_names(ax: Axes, labels: Sequence[str], hues: Sequence[str], num_lines: int, pitch: float, band: float, fontsize: float) -> None:
    families = fallback_families(labels)
    size = fontsize * (0.62 if pitch > 0.45 else 0.66)
    for line in range(num_lines):
        for vector, label in enumerate(labels):
            depth = _top(line, band) + _LINE + 0.2 + vector * pitch
            va: Any = "center" if pitch > 0.2 else "top"
            ax.text(-0.8, depth, label, fontsize=size, fontfamily=families, color=hues[vector], parse_math=False, ha="right", va=va)


def _at_least(value: int, least: int, what: str) -> int:
    if value < least:
        raise ArgumentError(f"plots.sequence: {what} must be at least {least}, got {value}.")
    return value
