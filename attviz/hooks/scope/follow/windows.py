"""How windows divide the axis of tokens, and what fills that axis up so that they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attviz.hooks.scope.follow.axes import CONSTANT, Axes, Axis, of_input, pieces_of
from attviz.hooks.scope.follow.trace import Traces


def unfolded(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes | None:
    """The axes of ``unfold``: windows of a dimension, whose places stand last."""
    tensor, dim, size, step = args[:4]
    axes = list(traces[tensor].axes)
    dim %= len(axes)
    if size == step and tensor.shape[dim] % size == 0:
        parts = traces.symbols.reshaped((axes[dim],), (tensor.shape[dim] // size, size))
    else:
        parts = _windows(traces, axes[dim], out.shape[dim], size, step)
    return None if parts is None else (*axes[:dim], parts[0], *axes[dim + 1 :], parts[1])


def _windows(traces: Traces, axis: Axis, count: int, size: int, step: int) -> Axes | None:
    """Windows that overlap: blocks of tokens in a row, each between what stands before and behind it; the pads before them show where."""
    pieces, symbols = pieces_of(axis), traces.symbols
    before = next((sum(length for _, length in pieces[:place]) for place, (piece, _) in enumerate(pieces) if of_input(piece)), None)
    if before is None or before + step > size:
        return None
    own = _between(traces, pieces, before, before + count * step)
    blocks = None if own is None else symbols.reshaped((own,), (count, step))
    if blocks is None:
        return None
    around = [(symbols.derived("of other places", axis, length, at), length) for at, length in ((0, before), (1, size - step - before))]
    return blocks[0], symbols.concatenated([around[0], (blocks[1], step), around[1]])


def _between(traces: Traces, pieces: Sequence[tuple[Axis, int]], start: int, end: int) -> Axis | None:
    """The pieces from ``start`` to ``end``; None if that cuts one which is no filler."""
    found, at = [], 0
    for axis, length in pieces:
        n = min(end, at + length) - max(start, at)
        if 0 < n < length and not (len(axis) == 1 and axis[0].kind == "pad"):
            return None
        if n > 0:
            found.append((axis if n == length else filler(traces, n), n))
        at += length
    return traces.symbols.concatenated(found) if at >= end else None


def filler(traces: Traces, size: int) -> Axis:
    """The axis of what fills tokens up: the same wherever it is as long."""
    return (traces.symbols.make("pad", size, CONSTANT),) if size > 1 else ()
