"""What happens to a softmax before it weighs the values."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attviz.hooks.scope.follow.rules import KEEPING
from attviz.hooks.scope.follow.trace import Trace, Traces, Weights, flat_tensors, traceable

_VIEWS = frozenset(
    "view _unsafe_view _reshape_alias reshape permute transpose t unsqueeze squeeze expand select slice split split_with_sizes "
    "unbind".split()
)
_SCALING = frozenset("mul div".split())
_STATISTICS = frozenset("sum mean max min amax amin argmax log var std".split())


def weights_after(traces: Traces, name: str, args: tuple[Any, ...], given: list[Trace], out: Any) -> Weights | None:
    """The softmax that the result of an operator still represents; None if it represents none."""
    found = next((trace for trace in given if trace.weights is not None), None)
    if found is None or not isinstance(out, Tensor):
        if found is not None and name in ("native_dropout",):
            return found.weights
        return None
    weights = found.weights
    assert weights is not None
    if name in KEEPING:
        return weights
    source = next(tensor for tensor in flat_tensors(args) if traceable(tensor) and traces[tensor] is found)
    if name in _VIEWS:
        return weights._replace(axis=_axis_after(name, args, weights.axis, source, out))
    others = [trace for trace in given if trace is not found]
    if name in _SCALING and (not others or all(trace.noise for trace in others)):
        return weights
    if name in _STATISTICS:
        return None  # a statistic of it
    if out.numel() > source.numel() and name == "mul":
        weights.softmax.used.append(weights.changed)  # values weighed by hand, to be summed
        return None
    if out.shape != source.shape:
        return weights._replace(axis=None, changed=weights.changed or name)
    return weights if _same_rows(source, out) else weights._replace(changed=weights.changed or name)


def _axis_after(name: str, args: tuple[Any, ...], axis: int | None, source: Tensor, out: Tensor) -> int | None:
    """Position of the axis of a softmax after a view."""
    if axis is None:
        return None
    if name == "permute":
        order: list[int] = [dim % source.ndim for dim in args[1]]
        return order.index(axis)
    if name in ("transpose", "t"):
        one, two = (dim % source.ndim for dim in (args[1:3] if len(args) > 2 else (0, 1)))
        return two if axis == one else one if axis == two else axis
    if name == "unsqueeze":
        return axis + int(args[1] % (source.ndim + 1) <= axis)
    if name == "expand":
        return axis + out.ndim - source.ndim
    if axis == source.ndim - 1 and out.ndim and out.shape[-1] == source.shape[-1]:
        return out.ndim - 1
    if axis == source.ndim - 2 and out.shape[-2:] == source.shape[-2:]:
        return out.ndim - 2
    return None


def _same_rows(before: Tensor, after: Tensor) -> bool:
    """Whether an operator kept the weights, except for rows that it cleared or that were NaN (padding)."""
    if before.dtype != after.dtype:
        after = after.to(before.dtype)
    before, after = before.detach().nan_to_num(), after.detach().nan_to_num()
    emptied = (after == 0).all(-1, keepdim=True)
    return bool(((before == after) | emptied).all())
