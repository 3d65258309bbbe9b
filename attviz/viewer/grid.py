"""Documents whose vectors are layers x heads (an Analysis, a Capture, or plain Document records) into page entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ArgumentError, FormatError, ShapeError
from attviz.selecting import Heads, Layers, choose_heads, choose_layers
from attviz.spelling import special_tokens
from attviz.viewer.codec import Precision, encode
from attviz.viewer.payload import Entry, finite_list

if TYPE_CHECKING:
    from jaxtyping import Float

    from attviz.records import Document


@dataclass(frozen=True, slots=True)
class Grid:
    """The layers and heads a page shows, by their 0-based indices in the model."""

    layer_names: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Indices and names, as the head of the page carries them."""
        return {"layers": [{"index": i, "name": self.layer_names[i]} for i in self.layers], "heads": list(self.heads)}


def choose_grid(layer_names: Sequence[str], num_heads: int, layers: Layers, heads: Heads) -> Grid:
    """Pick layers by index, slice, name or glob pattern, and heads by index or slice.

    Raises:
        UnknownLayerError: If a layer matches nothing; the message lists the layers there are.
        ArgumentError: If a head does not exist, or nothing is left.

    Example:
        >>> choose_grid(["encoder.0", "encoder.1"], 4, ["*.1"], [0, 3])
        Grid(layer_names=('encoder.0', 'encoder.1'), layers=(1,), heads=(0, 3))
    """
    grid = Grid(tuple(layer_names), tuple(choose_layers(layer_names, layers)), tuple(choose_heads(num_heads, heads)))
    if not grid.layers or not grid.heads:
        raise ArgumentError(f"view: nothing to show: {len(grid.layers)} layers and {len(grid.heads)} heads were chosen.")
    return grid


def grid_values(document: Document, where: str, grid: Grid, *, bounded: bool = True) -> Float[np.ndarray, "num_rows num_tokens"]:
    """The chosen vectors of a document, one per row, checked.

    Args:
        document: One text.
        where: What messages call it.
        grid: The chosen layers and heads.
        bounded: Whether values must lie in [0, 1]. Where they need not, an infinite one counts as missing.

    Raises:
        ShapeError: If the diagonal is not [num_layers, num_heads, num_tokens] of this document.
        FormatError: If a value lies outside [0, 1].
    """
    diagonal = np.asarray(document.diagonal)
    if diagonal.ndim != 3 or diagonal.shape[0] != len(grid.layer_names) or diagonal.shape[2] != len(document.tokens):
        raise ShapeError(
            f"view: {where}: the diagonal must be [num_layers, num_heads, num_tokens] with num_layers={len(grid.layer_names)} and "
            f"num_tokens={len(document.tokens)}, got {list(diagonal.shape)}."
        )
    if max(grid.heads) >= diagonal.shape[1]:
        raise ShapeError(f"view: {where}: head {max(grid.heads)} was requested, but the diagonal has {diagonal.shape[1]} heads.")
    values = diagonal[np.ix_(grid.layers, grid.heads)].reshape(len(grid.layers) * len(grid.heads), diagonal.shape[2])
    if not bounded:
        return np.where(np.isinf(values), np.nan, values)
    if bool(((values < 0) | (values > 1)).any()):
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        raise FormatError(f"view: {where}: attention weights lie in [0, 1], found {low:.4g} to {high:.4g}. Was this a logit?")
    return values


def is_causal(values: Float[np.ndarray, "num_rows num_tokens"]) -> bool:
    """Whether every head gives the first token exactly 1, as a causal mask forces it to.

    Example:
        >>> is_causal(np.array([[1.0, 0.5]])), is_causal(np.array([[0.9, 0.5]]))
        (True, False)
    """
    return values.shape[1] > 1 and bool(np.all(values[:, 0] >= 1 - 1e-6))


def grid_entry(
    document: Document, index: int, values: Float[np.ndarray, "num_rows num_tokens"], precision: Precision, causal: bool | None
) -> Entry:
    """Turn a document and its chosen vectors into its line in the list and its chunk."""
    count = len(document.tokens)
    row: dict[str, Any] = {"name": document.name, "text": document.text, "tokens": count}
    if document.label is not None:
        row["label"] = int(document.label)
    if document.prediction is not None:
        row["prediction"] = int(document.prediction)
    if document.probabilities is not None:
        row["probabilities"] = finite_list(np.asarray(document.probabilities))
    one: dict[str, Any] = {"tokens": list(document.tokens), "grid": True}
    one["causal"] = is_causal(values) if causal is None else bool(causal)
    given = None if document.special is None else _one_a_token(document.special, "special", index, count)
    one["special"] = np.flatnonzero(special_tokens(document.tokens, given)).tolist()
    if document.offsets is not None:
        one["offsets"] = utf16_offsets(document.text, _one_a_token(document.offsets, "offsets", index, count))
    chunk: dict[str, Any] = {"sets": [one], "precision": precision, "data": encode(values, precision)}
    if document.grid is not None:
        chunk["patches"] = [int(size) for size in document.grid]
    return Entry(row, chunk)


def _one_a_token(values: np.ndarray, what: str, index: int, count: int) -> np.ndarray:
    array = np.asarray(values)
    if len(array) != count:
        raise ShapeError(f"view: documents[{index}]: {what} has {len(array)} entries, but there are {count} tokens.")
    return array


def utf16_offsets(text: str, offsets: np.ndarray) -> list[int]:
    r"""Flat start, end pairs counted in UTF-16 units, as the browser counts.

    Example:
        >>> utf16_offsets("\N{GRINNING FACE}ab", np.array([[0, 1], [1, 3]]))
        [0, 2, 2, 4]
    """
    flat = [min(max(int(place), 0), len(text)) for place in np.asarray(offsets).reshape(-1)]
    if text.isascii() or max(map(ord, text), default=0) < 0x10000:
        return flat
    wide = np.cumsum([0] + [2 if ord(character) > 0xFFFF else 1 for character in text])
    return [int(wide[place]) for place in flat]
