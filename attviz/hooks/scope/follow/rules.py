"""What each operator makes of the axes of its inputs. One without a rule makes axes of unknown origin, the same for the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attviz.hooks.scope.follow.axes import CONSTANT, FEATURE, UNKNOWN, Axes, Axis, rank_of, size_of
from attviz.hooks.scope.follow.trace import Traces, traceable

Rule = Callable[[Traces, tuple[Any, ...], dict[str, Any], Any], "Axes | list[Axes] | None"]

KEEPING = frozenset(
    "clone contiguous detach alias lift_fresh lift_fresh_copy _to_copy positive alias_copy detach_copy native_dropout".split()
)
"""Operators whose result is their first argument, by value."""
SAME = frozenset(
    "_softmax _safe_softmax _log_softmax native_layer_norm native_group_norm _fused_rms_norm native_batch_norm cudnn_batch_norm "
    "_native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update miopen_batch_norm cumsum cumprod logcumsumexp "
    "triu tril fill nan_to_num _transformer_encoder_layer_fwd renorm dropout softmax log_softmax rms_norm layer_norm".split()
)
"""Operators that keep every index of their first argument where it is."""
_REDUCING = frozenset(
    "sum mean amax amin max min var std norm linalg_vector_norm logsumexp prod any all argmax argmin median var_mean std_mean nansum "
    "count_nonzero aminmax mode".split()
)


def axes_after(traces: Traces, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> list[tuple[Tensor, Axes]]:
    """The tensors an operator returned, each with its axes."""
    name = base_name(func)
    outputs = [tensor for tensor in _tensors(out) if traceable(tensor)]
    if not outputs or not any(traceable(tensor) for tensor in _tensors((args, kwargs))):
        return []  # made from nothing: its axes get names when it is first used
    rule = _RULES.get(name)
    if rule is None and name in KEEPING | SAME:
        rule = _same
    if rule is None and name in _REDUCING:
        rule = _reduced
    if rule is None and name.startswith("_scaled_dot_product"):
        rule = _attended
    if rule is None and torch.Tag.pointwise in getattr(func, "tags", ()):
        rule = _pointwise
    found = None if rule is None else rule(traces, args, kwargs, out)
    if found is None:
        return [(tensor, _unknown(traces, name, args, kwargs, tensor, index)) for index, tensor in enumerate(outputs)]
    several = found if isinstance(found, list) else [found]
    result = []
    for index, tensor in enumerate(outputs):
        axes = several[index] if index < len(several) else None
        if (
            axes is None
            or len(axes) != tensor.ndim
            or any(size_of(axis) not in (size, 1) for axis, size in zip(axes, tensor.shape, strict=True))
        ):
            axes = _unknown(traces, name, args, kwargs, tensor, index)
        result.append((tensor, axes))
    return result


def base_name(func: Any) -> str:
    """Name of an operator without its namespace, its overload and the underscore of in-place variants."""
    schema = getattr(func, "_schema", None)
    name: str = getattr(func, "__name__", str(func)) if schema is None else schema.name.split("::")[-1]
    return name[:-1] if name.endswith("_") else name


def _unknown(traces: Traces, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor, index: int) -> Axes:
    """Axes of unknown origin. Query and key that go the same unknown way keep the same names: those of features are left out."""
    inputs: list[Any] = []
    fixed = True
    for value in _flat((args, kwargs)):
        if isinstance(value, Tensor):
            if not traceable(value):
                continue
            axes = traces[value].axes
            constant = all(rank_of(axis) <= CONSTANT for axis in axes)
            inputs.append(axes if constant else tuple(size_of(axis) if rank_of(axis) == FEATURE else axis for axis in axes))
            fixed = fixed and constant
        elif isinstance(value, (int, float, bool, str, torch.dtype)):
            inputs.append(value)
    rank = CONSTANT if fixed else UNKNOWN
    of = tuple(symbol for axes in inputs if isinstance(axes, tuple) for axis in axes if isinstance(axis, tuple) for symbol in axis)
    make = traces.symbols.make
    return tuple(
        () if size == 1 else (make("by", size, rank, name, tuple(inputs), index, place, of=of),) for place, size in enumerate(out.shape)
    )


# ---- views


def _same(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
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


# ---- several pieces side by side


def _concatenated(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    tensors = [tensor for tensor in args[0] if tensor.ndim == out.ndim]  # an empty 1-D tensor is let through by torch
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    axes = [traces[tensor].axes for tensor in tensors]
    pieces = [(each[dim], tensor.shape[dim]) for each, tensor in zip(axes, tensors, strict=True)]
    result = [traces.symbols.met([each[index] for each in axes]) for index in range(out.ndim)]
    first = pieces[0]
    if len(pieces) > 1 and all(piece == first for piece in pieces) and first[1] > 1 and all(rank_of(each[dim]) > CONSTANT for each in axes):
        # the same indices several times: heads, where the rest differs (slices of the features)
        kind = "stack" if any(each != axes[0] for each in axes) else "copies"
        rank = FEATURE if kind == "stack" else CONSTANT
        result[dim] = (traces.symbols.make(kind, len(pieces), rank, traces.symbols.fresh()), *first[0])
    else:
        result[dim] = traces.symbols.concatenated(pieces)
    return tuple(result)


def _stacked(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    axes = [traces[tensor].axes for tensor in args[0]]
    result = [traces.symbols.met([each[index] for each in axes]) for index in range(out.ndim - 1)]
    symbol = traces.symbols.make("stack", len(axes), FEATURE, traces.symbols.fresh())
    result.insert(dim, (symbol,) if len(axes) > 1 else ())
    return tuple(result)


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
        filler = [(symbols.make("pad", n, CONSTANT),) if n > 1 else () for n in (before, after)]
        if before or after:
            axes[dim] = symbols.concatenated([(filler[0], before), (axes[dim], size), (filler[1], after)])
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


def _unfolded(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes | None:
    tensor, dim, size, step = args[:4]
    if size != step or tensor.shape[dim] % size:
        return None
    axes = list(traces[tensor].axes)
    dim %= len(axes)
    parts = traces.symbols.reshaped((axes[dim],), (tensor.shape[dim] // size, size))
    return None if parts is None else (*axes[:dim], parts[0], *axes[dim + 1 :], parts[1])


# ---- by index


def _looked_up(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    return (*traces[args[1]].axes, _feature(traces, traces[args[0]].axes[1], out.shape[-1]))


def _picked(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    axes = list(traces[args[0]].axes)
    dim = args[1] % len(axes)
    axes[dim] = traces.symbols.derived("pick", axes[dim], out.shape[dim], traces[args[2]].axes, rank=min(UNKNOWN, rank_of(axes[dim])))
    return tuple(axes)


def _indexed(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes | None:
    given = [(dim, index) for dim, index in enumerate(args[1]) if index is not None]
    if len(given) != 1 or given[0][1].dtype is torch.bool:
        return None
    dim, index = given[0]
    axes, found = traces[args[0]].axes, traces[index].axes
    if index.ndim == 1 and rank_of(found[0]) < UNKNOWN:
        found = (traces.symbols.derived("pick", axes[dim], index.shape[0], found, rank=min(UNKNOWN, rank_of(axes[dim]))),)
    return (*axes[:dim], *found, *axes[dim + 1 :])


# ---- products


def constant(axes: Axes) -> bool:
    """Whether a tensor has only axes that come from no input: a parameter, or something made of parameters."""
    return all(rank_of(axis) <= CONSTANT for axis in axes)


def _feature(traces: Traces, axis: Axis, size: int) -> Axis:
    return () if size <= 1 else (traces.symbols.make("weight", size, FEATURE, of=axis),)


def _product(traces: Traces, left: Axis, left_axes: Axes, right: Axis, right_axes: Axes) -> tuple[Axis, Axis]:
    if constant(right_axes):
        return left, _feature(traces, right, size_of(right))
    if constant(left_axes):
        return _feature(traces, left, size_of(left)), right
    return left, right


def _matrix_product(at: int) -> Rule:
    def rule(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
        one, two = traces[args[at]].axes, traces[args[at + 1]].axes
        return _product(traces, one[0], one, two[1], two)

    return rule


def _batched_product(at: int) -> Rule:
    def rule(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
        one, two = traces[args[at]].axes, traces[args[at + 1]].axes
        left, right = _product(traces, one[1], one, two[2], two)
        return traces.symbols.met([one[0], two[0]]), left, right

    return rule


def _linear(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    return (*traces[args[0]].axes[:-1], _feature(traces, traces[args[1]].axes[0], out.shape[-1]))


def _convolved(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    axes, rest = traces[args[0]].axes, tuple(map(str, args[3:]))
    symbols = traces.symbols
    spatial = [
        axis
        if size == args[0].shape[index] and set(args[3]) == {1}
        else symbols.derived("convolution", axis, size, *rest, tuple(args[1].shape[2:]))
        for index, (axis, size) in enumerate(zip(axes[2:], out.shape[2:], strict=True), start=2)
    ]
    return (axes[0], _feature(traces, traces[args[1]].axes[0], out.shape[1]), *spatial)


def _pooled(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    first = out[0] if isinstance(out, (tuple, list)) else out
    axes = tuple(
        axis if size == args[0].shape[index] else traces.symbols.derived("pool", axis, size, str(args[1:]))
        for index, (axis, size) in enumerate(zip(traces[args[0]].axes, first.shape, strict=True))
    )
    return [axes, axes]


def _reduced(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    tensor = args[0]
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    if dims is None or isinstance(dims, (bool, float, Tensor)) or (isinstance(dims, (list, tuple)) and not dims):
        dims = range(tensor.ndim)
    if base_two_arguments(args):
        dims = args[2]
    gone = {dim % max(tensor.ndim, 1) for dim in ([dims] if isinstance(dims, int) else dims)}
    first = next(iter(_tensors(out)))
    kept = first.ndim == tensor.ndim
    axes = tuple(() if index in gone else axis for index, axis in enumerate(traces[tensor].axes) if kept or index not in gone)
    return [axes, axes]


def base_two_arguments(args: Any) -> bool:
    """Whether a reduction carries its order before its dimensions (norms)."""
    return len(args) > 2 and isinstance(args[2], (list, tuple)) and not isinstance(args[1], (list, tuple))


def _pointwise(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    first = next(iter(_tensors(out)))
    given = [(tensor, traces[tensor].axes) for tensor in _tensors((args, kwargs)) if traceable(tensor) and tensor is not kwargs.get("out")]
    result = []
    for place in range(-first.ndim, 0):
        candidates = [axes[place] for tensor, axes in given if tensor.ndim >= -place and tensor.shape[place] == first.shape[place]]
        result.append(traces.symbols.met(candidates) if candidates else traces.symbols.spread(first.shape[place]))
    return tuple(result)


def _attended(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    query, value = traces[args[0]].axes, traces[args[2]].axes
    return [(*query[:-1], value[-1])]


def _projected(traces: Traces, args: Any, kwargs: Any, out: Any) -> list[Axes]:
    query = traces[args[0]].axes
    return [(*query[:-1], _feature(traces, query[-1], out[0].shape[-1]))]


# ---- what is written into a tensor


def _written(traces: Traces, args: Any, kwargs: Any, out: Any) -> Axes:
    source = args[1]
    if not traceable(source):
        return traces[args[0]].axes
    axes = traces[source].axes
    missing = out.ndim - len(axes)
    own = traces[args[0]].axes
    return tuple(
        own[index] if index < missing or (source.shape[index - missing] == 1 and size != 1) else axes[index - missing]
        for index, size in enumerate(out.shape)
    )


def _tensors(value: Any) -> list[Tensor]:
    return [each for each in _flat(value) if isinstance(each, Tensor)]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [each for one in value for each in _flat(one)]
    if isinstance(value, dict):
        return [each for one in value.values() for each in _flat(one)]
    return [value]


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "reshape", "view_copy", "_reshape_copy"), _reshaped),
    "permute": _permuted,
    **dict.fromkeys(("transpose", "t", "swapaxes"), _transposed),
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    "expand": _expanded,
    "select": _selected,
    "unbind": _unbound,
    "slice": _sliced,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk"), _split),
    **dict.fromkeys(("cat", "_cat"), _concatenated),
    "stack": _stacked,
    **dict.fromkeys(("repeat", "tile"), _repeated),
    "constant_pad_nd": _padded,
    "roll": _moved("roll"),
    "flip": _moved("flip"),
    "unfold": _unfolded,
    "embedding": _looked_up,
    **dict.fromkeys(("index_select", "gather"), _picked),
    **dict.fromkeys(("index", "_unsafe_index"), _indexed),
    "mm": _matrix_product(0),
    **dict.fromkeys(("addmm", "_addmm_activation"), _matrix_product(1)),
    "bmm": _batched_product(0),
    "baddbmm": _batched_product(1),
    "linear": _linear,
    **dict.fromkeys(("convolution", "cudnn_convolution", "mkldnn_convolution", "_convolution"), _convolved),
    **dict.fromkeys(
        ("avg_pool1d", "avg_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool3d",
         "_adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_avg_pool1d", "upsample_nearest2d", "upsample_bilinear2d"), _pooled,
    ),
    "copy": _written,
    **dict.fromkeys(("_native_multi_head_attention",), _projected),
    "flex_attention": _attended,
}  # fmt: skip
