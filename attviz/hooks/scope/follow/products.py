"""How products, convolutions, reductions and look-ups transform axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attviz.hooks.scope.follow.axes import CONSTANT, FEATURE, UNKNOWN, Axes, Axis, learned, rank_of, size_of
from attviz.hooks.scope.follow.trace import Rule, Trace, Traces, flat_tensors, traceable

_REDUCING = (
    "sum mean amax amin max min var std norm linalg_vector_norm logsumexp prod any all argmax argmin median var_mean std_mean nansum "
    "count_nonzero aminmax mode"
).split()
_POOLING = (
    "avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_avg_pool1d upsample_nearest2d upsample_bilinear2d"
).split()

_ONLY_WINDOWS = ("[]", "[[0, 0]]", "[[0]]", "[[0, 0], [1, 1]]")  # after kernel and stride: no padding, nothing left out


def _looked_up(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    return (*traces[args[1]].axes, _feature(traces, traces[args[0]].axes[1], out.shape[-1]))


def _picked(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    axes = list(traces[args[0]].axes)
    dim = args[1] % len(axes)
    axes[dim] = _pick(traces, axes[dim], out.shape[dim], args[2])
    return tuple(axes)


def _pick(traces: Traces, axis: Axis, size: int, index: Tensor) -> Axis:
    """The axis after indexing: equal only for equal index values; an index that keeps the order moves nothing."""
    known = traces.known(index)
    made = known is None or not known.streams
    if index.ndim == 1 and made and size == size_of(axis):
        if torch.equal(index, torch.arange(size, dtype=index.dtype, device=index.device)):
            return axis
    return traces.symbols.derived("pick", axis, size, traces.values(index), rank=min(UNKNOWN, rank_of(axis)))


def _sorted(at: int) -> Rule:
    """Values sorted by themselves; the dimension is the argument ``at``."""

    def rule(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes] | None:
        if not args[0].ndim:
            return None
        index = flat_tensors(out)[-1]
        dim = (args[at] if len(args) > at else kwargs.get("dim", -1)) % args[0].ndim
        axes = list(traces[args[0]].axes)
        axes[dim] = _pick(traces, axes[dim], index.shape[dim], index)
        return [tuple(axes)] * 2

    return rule


def _placed(at: int) -> Rule:
    """Values written to the positions that an index names."""

    def rule(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes | None:
        if not isinstance(args[1], int) or not traceable(args[at]):
            return None
        source, axes = traces[args[at]].axes, list(traces[args[0]].axes)
        dim = args[1] % len(axes)
        index = args[2]
        if len(source) == len(axes):
            axes = [own if index.ndim > 1 or place == dim else new for place, (own, new) in enumerate(zip(axes, source, strict=True))]
            axes[dim] = traces.symbols.derived("placed", source[dim], out.shape[dim], traces.values(index), rank=UNKNOWN)
        return tuple(axes)

    return rule


def _indexed(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes | None:
    given = [(dim, index) for dim, index in enumerate(args[1]) if index is not None]
    if len(given) != 1 or given[0][1].dtype is torch.bool:
        return None
    dim, index = given[0]
    axes, found = traces[args[0]].axes, traces[index].axes
    if index.ndim == 1 and (rank_of(found[0]) < UNKNOWN or not learned(axes[dim])):
        found = (_pick(traces, axes[dim], index.shape[0], index),)
    return (*axes[:dim], *found, *axes[dim + 1 :])


def constant(axes: Axes) -> bool:
    """Whether no axis of a tensor comes from an input: a parameter, or something derived from parameters."""
    return all(rank_of(axis) <= CONSTANT for axis in axes)


def _feature(traces: Traces, axis: Axis, size: int) -> Axis:
    return () if size <= 1 else (traces.symbols.make("weight", size, FEATURE, of=axis),)


def _product(traces: Traces, one: Trace, two: Trace) -> tuple[Axis, Axis]:
    left, right = one.axes[-2], two.axes[-1]
    if _fixed(two):
        return left, _feature(traces, right, size_of(right))
    if _fixed(one):
        return _feature(traces, left, size_of(left)), right
    return left, right


def _fixed(trace: Trace) -> bool:
    """Whether no input has a part in a tensor; slots that tokens were written into have axes of their own, but depend on inputs."""
    return constant(trace.axes) and not trace.streams


def _matrix_product(at: int) -> Rule:
    def rule(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
        return _product(traces, traces[args[at]], traces[args[at + 1]])

    return rule


def _batched_product(at: int) -> Rule:
    def rule(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
        one, two = traces[args[at]], traces[args[at + 1]]
        return traces.symbols.beside([one.axes[0], two.axes[0]]), *_product(traces, one, two)

    return rule


def _distances(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    one, two = traces[args[0]].axes, traces[args[1]].axes
    leading = tuple(traces.symbols.beside([a, b]) for a, b in zip(one[:-2], two[:-2], strict=False))
    return (*leading, one[-2], two[-2])


def _linear(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    return (*traces[args[0]].axes[:-1], _feature(traces, traces[args[1]].axes[0], out.shape[-1]))


def _convolved(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    axes, rest = traces[args[0]].axes, tuple(map(str, args[3:]))
    symbols, kernel = traces.symbols, tuple(args[1].shape[2:])
    stride, padding, dilation, transposed = args[3:7]
    plain = not transposed and set(padding) == {0} and set(dilation) == {1}
    spatial = [
        axis
        if size == args[0].shape[index] and set(stride) == {1}
        else (_of_patches(traces, axis, size, kernel[index - 2], stride[index - 2]) if plain else ())
        or symbols.derived("convolution", axis, size, *rest, kernel)
        for index, (axis, size) in enumerate(zip(axes[2:], out.shape[2:], strict=True), start=2)
    ]
    return (axes[0], _feature(traces, traces[args[1]].axes[0], out.shape[1]), *spatial)


def _pooled(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    first = out[0] if isinstance(out, (tuple, list)) else out
    kernel, stride = args[1], args[2] if len(args) > 2 and args[2] else args[1]
    plain = isinstance(kernel, (list, tuple)) and isinstance(stride, (list, tuple)) and str(list(args[3:])) in _ONLY_WINDOWS
    axes = tuple(
        axis
        if size == args[0].shape[index]
        else (_of_patches(traces, axis, size, kernel[index - first.ndim], stride[index - first.ndim]) if plain else ())
        or traces.symbols.derived("pool", axis, size, str(args[1:]))
        for index, (axis, size) in enumerate(zip(traces[args[0]].axes, first.shape, strict=True))
    )
    return [axes, axes]


def _of_patches(traces: Traces, axis: Axis, size: int, kernel: int, stride: int) -> Axis:
    """The axis of windows that touch and do not overlap, however their tokens were summed up; empty if they do not."""
    touch = kernel == stride and size == size_of(axis) // max(kernel, 1)
    return traces.symbols.derived("patches", axis, size, kernel) if touch else ()


def _reduced(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    tensor = args[0]
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    if dims is None or isinstance(dims, (bool, float, Tensor)) or (isinstance(dims, (list, tuple)) and not dims):
        dims = range(tensor.ndim)
    if _order_first(args):
        dims = args[2]
    gone = {dim % max(tensor.ndim, 1) for dim in ([dims] if isinstance(dims, int) else dims)}
    first = next(iter(flat_tensors(out)))
    kept = first.ndim == tensor.ndim
    axes = tuple(() if index in gone else axis for index, axis in enumerate(traces[tensor].axes) if kept or index not in gone)
    return [axes, axes]


def _order_first(args: Any) -> bool:
    """Whether a reduction takes its order before its dimensions (norms)."""
    return len(args) > 2 and isinstance(args[2], (list, tuple)) and not isinstance(args[1], (list, tuple))


def pointwise(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    """Axes that broadcast against each other meet."""
    first = next(iter(flat_tensors(out)))
    given = [
        (tensor, traces[tensor].axes) for tensor in flat_tensors((args, kwargs)) if traceable(tensor) and tensor is not kwargs.get("out")
    ]
    result = []
    for place in range(-first.ndim, 0):
        candidates = [axes[place] for tensor, axes in given if tensor.ndim >= -place and tensor.shape[place] == first.shape[place]]
        result.append(traces.symbols.meet(candidates) if candidates else traces.symbols.spread(first.shape[place]))
    return tuple(result)


def _halved(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    axes = list(traces[args[0]].axes)
    dim = (args[1] if len(args) > 1 else -1) % len(axes)
    axes[dim] = traces.symbols.sliced(axes[dim], 0, out.shape[dim])
    return tuple(axes)


def _attended(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    query, value = traces[args[0]].axes, traces[args[2]].axes
    return [(*query[:-1], value[-1])]


def _projected(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    query = traces[args[0]].axes
    return [(*query[:-1], _feature(traces, query[-1], out[0].shape[-1]))]


PRODUCTS: dict[str, Rule] = {
    "embedding": _looked_up,
    **dict.fromkeys(("index_select", "gather"), _picked),
    "sort": _sorted(1),
    "topk": _sorted(2),
    **dict.fromkeys(("scatter", "scatter_add", "index_copy", "index_add"), _placed(3)),
    **dict.fromkeys(("_cdist_forward", "cdist", "_euclidean_dist"), _distances),
    **dict.fromkeys(("index", "_unsafe_index"), _indexed),
    "mm": _matrix_product(0),
    **dict.fromkeys(("addmm", "_addmm_activation"), _matrix_product(1)),
    "bmm": _batched_product(0),
    "baddbmm": _batched_product(1),
    "linear": _linear,
    **dict.fromkeys(("convolution", "cudnn_convolution", "mkldnn_convolution", "_convolution"), _convolved),
    **dict.fromkeys(_POOLING, _pooled),
    **dict.fromkeys(_REDUCING, _reduced),
    "_native_multi_head_attention": _projected,
    "flex_attention": _attended,
    "glu": _halved,
}
