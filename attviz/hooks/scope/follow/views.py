"""How views, concatenations and shifts transform axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attviz.hooks.scope.follow.axes import CONSTANT, FEATURE, UNKNOWN, Axes, Axis, of_input, rank_of, size_of
from attviz.hooks.scope.follow.trace import Rule, Trace, Traces, is_product
from attviz.hooks.scope.follow.windows import filler, unfolded


def same(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    """Every index of the first argument stays where it is."""
    return traces[args[0]].axes


def _reshaped(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes | None:
    if len(args) > 1 and isinstance(args[1], torch.dtype):
        return traces[args[0]].axes if out.shape == args[0].shape else None
    before, shape = traces[args[0]].axes, tuple(out.shape)
    if before and tuple(args[0].shape) == shape:
        return before
    return traces.symbols.reshaped(before, shape)


def _permuted(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    axes = traces[args[0]].axes
    return tuple(axes[index] for index in args[1])


def _transposed(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    axes = list(traces[args[0]].axes)
    one, two = args[1:3] if len(args) > 2 else ((0, 1) if len(axes) > 1 else (0, 0))
    axes[one], axes[two] = axes[two], axes[one]
    return tuple(axes)


def _unsqueezed(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    axes = list(traces[args[0]].axes)
    axes.insert(args[1] % (len(axes) + 1), ())
    return tuple(axes)


def _squeezed(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    tensor = args[0]
    dims = range(tensor.ndim) if len(args) == 1 else [args[1]] if isinstance(args[1], int) else args[1]
    gone = {dim % tensor.ndim for dim in dims if tensor.ndim and tensor.shape[dim] == 1}
    return tuple(axis for index, axis in enumerate(traces[tensor].axes) if index not in gone)


def _expanded(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    tensor, new = args[0], out.ndim - args[0].ndim
    axes, spread = traces[tensor].axes, traces.symbols.spread
    return tuple(
        spread(size) if index < new or (tensor.shape[index - new] == 1 and size != 1) else axes[index - new]
        for index, size in enumerate(out.shape)
    )


def _selected(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    axes = traces[args[0]].axes
    dim = args[1] % len(axes)
    return axes[:dim] + axes[dim + 1 :]


def _unbound(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    axes = traces[args[0]].axes
    dim %= len(axes)
    return [axes[:dim] + axes[dim + 1 :]] * len(out)


def _sliced(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    tensor = args[0]
    dim = (args[1] if len(args) > 1 else 0) % tensor.ndim
    size = tensor.shape[dim]
    start = args[2] if len(args) > 2 and args[2] is not None else 0
    start = min(max(start + size if start < 0 else start, 0), size)
    step = args[4] if len(args) > 4 else 1
    axes = list(traces[tensor].axes)
    axes[dim] = traces.symbols.sliced(axes[dim], start, out.shape[dim], step)
    return tuple(axes)


def _split(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    tensor = args[0]
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % tensor.ndim
    found, start = [], 0
    for piece in out:
        axes = list(traces[tensor].axes)
        axes[dim] = traces.symbols.sliced(axes[dim], start, piece.shape[dim])
        start += piece.shape[dim]
        found.append(tuple(axes))
    return found


def _concatenated(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    tensors = [tensor for tensor in args[0] if tensor.ndim == out.ndim]  # an empty 1-D tensor is let through by torch
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    axes = [traces[tensor].axes for tensor in tensors]
    pieces = [(each[dim], tensor.shape[dim]) for each, tensor in zip(axes, tensors, strict=True)]
    result = [traces.symbols.beside([each[index] for each in axes]) for index in range(out.ndim)]
    first = pieces[0]
    alike = len(pieces) > 1 and all(piece == first for piece in pieces)
    differ = [index for index in range(out.ndim) if any(each[index] != axes[0][index] for each in axes)]
    of_heads = bool(differ) and all(rank_of(each[index]) == FEATURE for index in differ for each in axes)
    if alike and (of_heads or (not differ and first[1] > 1 and rank_of(first[0]) > CONSTANT)):
        # the same indices several times: heads, where slices of the features lie on top of each other; else copies
        rank = FEATURE if of_heads else CONSTANT
        result[dim] = (traces.symbols.make("stack" if of_heads else "copies", len(pieces), rank, traces.symbols.fresh()), *first[0])
    else:
        found = [traces[tensor] for tensor in tensors]
        streams = [trace.streams for trace in found]
        if differ:
            pieces = _of_other_places(traces, pieces, axes, result, differ)
        if any(of_input(axis) for axis, _ in pieces):
            fills = [_fills_up(axis, trace) for (axis, _), trace in zip(pieces, found, strict=True)]
            pieces = [(filler(traces, size) if fill else axis, size) for (axis, size), fill in zip(pieces, fills, strict=True)]
        kept = [any(symbol.kept for axis in trace.axes for symbol in axis) for trace in found]
        scores = any(is_product(trace.pair) for trace in found)
        of_tokens = [frozenset[int]() if scores and _of_no_key(trace) else trace.streams for trace in found]
        pieces = [
            (axis or traces.symbols.single(size, of, trace.learned_from, old), size)
            for (axis, size), of, trace, old in zip(pieces, of_tokens, found, kept, strict=True)
        ]
        # a single token and a cache: what names the keys, not their mask
        result[dim] = traces.symbols.concatenated(pieces, UNKNOWN if any(streams) else CONSTANT)
    return tuple(result)


def _of_no_key(trace: Trace) -> bool:
    """Whether weights made a logit of the queries alone: beside scores, a sink that is learned, however much it depends on tokens.

    All that the weights made is still there: ``(query * key).sum(-1)``, which is the score of a key, has summed over the head's features.
    """
    pair = trace.pair
    if pair is None or pair.kept or bool(pair.query) == bool(pair.key):
        return False
    features = math.prod(symbol.size for axis in trace.axes for symbol in axis if symbol.rank == FEATURE)
    return features >= size_of(pair.keys if pair.query else pair.rows)


def _fills_up(axis: Axis, trace: Trace) -> bool:
    """Whether a tensor was made of nothing (zeros), so that beside tokens it fills them up."""
    return len(axis) == 1 and axis[0].kind == "made" and not trace.streams and len(trace.learned_from) == 1 and not trace.noise


def _of_other_places(
    traces: Traces, pieces: list[tuple[Axis, int]], axes: list[Axes], result: list[Axis], differ: list[int]
) -> list[tuple[Axis, int]]:
    """Pieces of the same axis, each of other windows or texts (a window beside its neighbours): only the unmoved one keeps its name."""
    found = []
    for piece, own in zip(pieces, axes, strict=True):
        moved = pieces.count(piece) > 1 and rank_of(piece[0]) > CONSTANT and any(own[index] != result[index] for index in differ)
        places = tuple(own[index] for index in differ)
        found.append((traces.symbols.derived("of other places", *piece, *places), piece[1]) if moved else piece)
    return found


def _stacked(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    axes = [traces[tensor].axes for tensor in args[0]]
    result = [traces.symbols.beside([each[index] for each in axes]) for index in range(out.ndim - 1)]
    result.insert(dim, put_back(traces, args[0]) or _on_top(traces, args[0]))
    return tuple(result)


_SPLITTING = ("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk")


def taken_from(traces: Traces, name: str, args: Any, kwargs: Any, out: Any) -> list[frozenset[tuple[Axis, int]]]:
    """For each result, the axis of an input and the single index taken from it, if one was."""
    if name not in ("select", "unbind", "slice", *_SPLITTING):
        return []
    axes, splitting = traces[args[0]].axes, name in _SPLITTING
    dim = (args[2 if splitting else 1] if len(args) > 1 + splitting else kwargs.get("dim", 0)) % max(len(axes), 1)
    if not axes or args[0].shape[dim] == 1 or not of_input(axes[dim]):
        return []
    size = args[0].shape[dim]
    if name == "unbind":
        return [frozenset([(axes[dim], index)]) for index in range(size)]
    if name == "select":
        return [frozenset([(axes[dim], args[2] % size)])]
    pieces, start = (out, 0) if splitting else ([out], args[2] if len(args) > 2 and args[2] is not None else 0)
    start = max(start + size, 0) if start < 0 else start
    found = []
    for piece in pieces:
        found.append(frozenset([(axes[dim], start)] if piece.shape[dim] == 1 else []))
        start += piece.shape[dim]
    return found


def put_back(traces: Traces, tensors: Sequence[Tensor]) -> Axis | None:
    """The axis whose indices were taken one by one and are put back together here in their order; None if they are not."""
    last: list[dict[Axis, int]] = []
    for tensor in tensors:
        found: dict[Axis, int] = {}
        for axis, index in traces[tensor].taken:
            found[axis] = max(index, found.get(axis, -1))  # a recurrent state is made of all indices so far
        last.append(found)
    first = last[0] if last else {}
    return next((axis for axis in first if size_of(axis) == len(last) and [each.get(axis) for each in last] == [*range(len(last))]), None)


def _on_top(traces: Traces, tensors: Sequence[Tensor]) -> Axis:
    """Several stacked tensors: heads, unless they come from single indices of an input."""
    if len(tensors) == 1:
        return ()
    taken = any(traces[tensor].taken for tensor in tensors)
    return (traces.symbols.make("piled" if taken else "stack", len(tensors), UNKNOWN if taken else FEATURE, traces.symbols.fresh()),)


def _repeated(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    counts: Sequence[int] = args[1]
    axes = ((),) * (len(counts) - args[0].ndim) + traces[args[0]].axes
    return tuple(traces.symbols.spread(count) + axis for count, axis in zip(counts, axes, strict=True))


def _padded(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes | None:
    pads = args[1]
    axes, symbols = list(traces[args[0]].axes), traces.symbols
    for index in range(len(pads) // 2):
        before, after, dim = pads[2 * index], pads[2 * index + 1], len(axes) - 1 - index
        size = args[0].shape[dim]
        if before < 0 or after < 0:
            cut = (max(-before, 0), size - max(-before, 0) - max(-after, 0))
            axes[dim], size = symbols.sliced(axes[dim], *cut), cut[1]
            before, after = max(before, 0), max(after, 0)
        if before or after:
            axes[dim] = symbols.concatenated([(filler(traces, before), before), (axes[dim], size), (filler(traces, after), after)])
    return tuple(axes)


def _moved(what: str) -> Rule:
    def rule(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
        tensor = args[0]
        how = args[1] if len(args) > 1 else []
        dims = (args[2] if what == "roll" and len(args) > 2 else how if what == "flip" else ()) or range(tensor.ndim)
        dims = {dim % tensor.ndim for dim in dims}
        return tuple(
            traces.symbols.derived(what, axis, tensor.shape[index], tuple(how)) if index in dims else axis
            for index, axis in enumerate(traces[tensor].axes)
        )

    return rule


VIEWS: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "reshape", "view_copy", "_reshape_copy"), _reshaped),
    "permute": _permuted,
    **dict.fromkeys(("transpose", "t", "swapaxes"), _transposed),
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    "expand": _expanded,
    "select": _selected,
    "unbind": _unbound,
    "slice": _sliced,
    **dict.fromkeys(_SPLITTING, _split),
    **dict.fromkeys(("cat", "_cat"), _concatenated),
    "stack": _stacked,
    **dict.fromkeys(("repeat", "tile"), _repeated),
    "constant_pad_nd": _padded,
    "roll": _moved("roll"),
    "flip": _moved("flip"),
    "unfold": unfolded,
    "view_as_complex": lambda traces, args, kwargs, out: traces[args[0]].axes[:-1],
    "view_as_real": lambda traces, args, kwargs, out: (*traces[args[0]].axes, (traces.symbols.make("parts", 2, FEATURE),)),
}
MOVING = frozenset((*VIEWS, "clone", "contiguous", "_to_copy", "detach", "alias", "copy", "index_put", "index_copy", "mul", "add"))
"""Operators behind which a tensor may still be a buffer, or a part of it."""
