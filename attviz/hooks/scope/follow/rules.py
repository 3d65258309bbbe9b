"""How each operator transforms the axes of its inputs. Without a rule, the result has axes of unknown origin, equal for equal inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attviz.hooks.scope.follow.axes import CONSTANT, FEATURE, UNKNOWN, Axes, rank_of, size_of
from attviz.hooks.scope.follow.products import PRODUCTS, constant, pointwise
from attviz.hooks.scope.follow.trace import Rule, Traces, flat, flat_tensors, traceable
from attviz.hooks.scope.follow.views import VIEWS, same

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
UNTAGGED = frozenset(
    "leaky_relu ldexp celu elu selu hardsigmoid hardtanh abs copysign eq ge gelu gt heaviside le lt masked_fill mish ne relu6 rrelu "
    "threshold true_divide hardswish _prelu_kernel log_sigmoid_forward rrelu_with_noise floor_divide xlogy".split()
)
"""Operators on each element that torch 2.9 does not tag as pointwise, or which torch 2.13 does not, or not in place."""


def axes_after(traces: Traces, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> list[tuple[Tensor, Axes]]:
    """The tensors an operator returned, each with its axes."""
    name = base_name(func)
    outputs = [tensor for tensor in flat_tensors(out) if traceable(tensor)]
    if not outputs or not any(traceable(tensor) for tensor in flat_tensors((args, kwargs))):
        return []  # made from nothing: its axes get names when it is first used
    rule = _RULES.get(name)
    if rule is None and name in KEEPING | SAME:
        rule = same
    if rule is None and name.startswith("_scaled_dot_product"):
        rule = PRODUCTS["flex_attention"]
    if rule is None and (name in UNTAGGED or torch.Tag.pointwise in getattr(func, "tags", ())):
        rule = pointwise
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
    """Axes of unknown origin. Query and key that pass through the same unknown operators keep equal names, except those of features."""
    inputs: list[Any] = []
    fixed = True
    for value in flat((args, kwargs)):
        if isinstance(value, Tensor):
            if not traceable(value):
                continue
            axes = traces[value].axes
            of_nothing = constant(axes)
            inputs.append(axes if of_nothing else tuple(size_of(axis) if rank_of(axis) == FEATURE else axis for axis in axes))
            fixed = fixed and of_nothing
            if not value.is_floating_point() and value.numel():
                inputs.append(traces.values(value))  # what an index moves, or a mask cuts out, is another order for every other one
        elif isinstance(value, (int, float, bool, str, torch.dtype)):
            inputs.append(value)
    rank = CONSTANT if fixed else UNKNOWN
    of = tuple(symbol for axes in inputs if isinstance(axes, tuple) for axis in axes if isinstance(axis, tuple) for symbol in axis)
    make = traces.symbols.make
    return tuple(
        () if size == 1 else (make("by", size, rank, name, tuple(inputs), index, place, of=of),) for place, size in enumerate(out.shape)
    )


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


_RULES: dict[str, Rule] = {**VIEWS, **PRODUCTS, "copy": _written}
