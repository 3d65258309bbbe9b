"""Values written into a part of a buffer (a cache of fixed length): which part of the buffer they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attviz.hooks.scope.follow.axes import FEATURE, UNKNOWN, Axes, Axis, rank_of
from attviz.hooks.scope.follow.trace import Traces, traceable


def write(traces: Traces, name: str, args: tuple[Any, ...], out: Any) -> None:
    """Name the part of a buffer that an operator wrote, if it is a piece of its axes.

    Args:
        traces: What is known so far.
        name: ``"copy"`` into a view, ``"index_put"`` or ``"index_copy"``.
        args: Arguments of the operator.
        out: Its result.
    """
    if name == "copy":
        if traceable(args[0]):
            _wrote_view(traces, args[0])
        return
    found = _by_index(args) if name == "index_put" else (args[1] % args[0].ndim, args[2], args[3])
    if found is None or not traceable(out):
        return
    dim, index, source = found
    start = _start(index)
    if start is None or not traceable(source) or source.ndim != out.ndim:
        return
    if any(
        length != (len(index) if place == dim else size) for place, (length, size) in enumerate(zip(source.shape, out.shape, strict=True))
    ):
        return  # spread over the places
    starts = [start if place == dim else 0 for place in range(out.ndim)]
    _name(traces, out, traces[source].axes, tuple(source.shape), starts, traces[source].streams)
    _wrote_view(traces, out)


def _wrote_view(traces: Traces, view: Tensor) -> None:
    base = view._base
    if base is None or not traceable(base):
        return
    known, streams = traces[base], traces[view].streams
    if base.ndim == view.ndim and (axes := _every_other(traces, view, base)) is not None:
        traces[base] = known._replace(axes=axes, streams=known.streams | streams)
        return
    if base.ndim != view.ndim or base.stride() != view.stride():
        traces[base] = known._replace(streams=known.streams | streams, buffered=True)  # somewhere in it
        return
    rest, starts = int(view.storage_offset()) - int(base.storage_offset()), [0] * base.ndim
    for step, dim in sorted(((int(base.stride(dim)), dim) for dim in range(base.ndim)), reverse=True):
        if step and base.shape[dim] > 1:
            starts[dim], rest = divmod(rest, step)
    if not rest:
        _name(traces, base, traces[view].axes, tuple(view.shape), starts, traces[view].streams)


def _every_other(traces: Traces, view: Tensor, base: Tensor) -> Axes | None:
    """Axes of a tensor of which every second feature, or third, was written (rotary positions): every token is there; None if not so."""
    written = traces[view].axes
    steps = [one // two if two else 0 for one, two in zip(view.stride(), base.stride(), strict=True)]
    apart = [dim for dim, step in enumerate(steps) if step > 1]
    if len(apart) != 1 or rank_of(written[apart[0]]) != FEATURE:
        return None
    dim, step = apart[0], steps[apart[0]]
    if any(size != base.shape[place] for place, size in enumerate(view.shape) if place != dim) or view.shape[dim] * step != base.shape[dim]:
        return None
    return (*written[:dim], traces.symbols.derived("every other", written[dim], base.shape[dim], step), *written[dim + 1 :])


def _name(traces: Traces, base: Tensor, written: Axes, shape: tuple[int, ...], starts: list[int], streams: frozenset[int]) -> None:
    symbols, known = traces.symbols, traces[base]
    places = zip(known.axes, starts, shape, strict=True)
    if tuple(symbols.sliced(axis, start, length) for axis, start, length in places) == tuple(written):
        traces[base] = known._replace(streams=known.streams | streams)  # the same tokens, changed in place
        return
    axes: list[Axis] = []
    for axis, length, size, start in zip(written, shape, base.shape, starts, strict=True):
        rest = size - start - length
        before, behind = ((symbols.make("buffer", n, UNKNOWN, symbols.fresh()),) for n in (start, rest))
        own = axis or (symbols.single(length, streams) if size > 1 else ())
        axes.append(axis if length == size else symbols.concatenated([(before, start), (own, length), (behind, rest)]))
    # features may be written half by half, or head by head: every token is there all the same
    part = any(length != size and rank_of(axis) != FEATURE for axis, length, size in zip(written, shape, base.shape, strict=True))
    traces[base] = known._replace(axes=tuple(axes), streams=known.streams | streams, buffered=known.buffered or part)


def _by_index(args: tuple[Any, ...]) -> tuple[int, Tensor, Tensor] | None:
    given = [(dim, index) for dim, index in enumerate(args[1]) if index is not None]
    if len(given) != 1 or (len(args) > 3 and args[3]):
        return None
    return given[0][0], given[0][1], args[2]


def _start(index: Tensor) -> int | None:
    """The first of consecutive positions; None if they are not consecutive."""
    if index.ndim != 1 or index.dtype is torch.bool or not len(index):
        return None
    first = int(index[0])
    return first if torch.equal(index, torch.arange(first, first + len(index), dtype=index.dtype, device=index.device)) else None
