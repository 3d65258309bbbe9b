"""Names for the axes of a call's inputs: those that carry tokens first, equal ones together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from attviz.hooks.scope.follow.axes import INPUT
from attviz.hooks.scope.follow.trace import Trace, Traces, flat_tensors, traceable


def name_inputs(traces: Traces, inputs: Iterable[Any]) -> None:
    """Give the axes of a call's inputs their names. Equal tensors are one input."""
    named: list[Tensor] = []
    for tensor in _by_importance(inputs):
        if traces.known(tensor) is not None:
            continue
        same = next((other for other in named if _equal(other, tensor)), None)
        if same is not None:
            traces[tensor] = traces[same]
            continue
        number = traces.symbols.fresh()
        rank = INPUT - 0.001 * min(len(named), 900)
        batched = tensor.ndim > 2 or (tensor.ndim == 2 and not tensor.is_floating_point())
        axes = tuple(
            () if size == 1 else (traces.symbols.make("in", size, rank, number, place, place == 0 and batched, root=(number, place)),)
            for place, size in enumerate(tensor.shape)
        )
        traces[tensor] = Trace(axes, frozenset([number]))
        named.append(tensor)


def _equal(one: Tensor, two: Tensor) -> bool:
    if one is two:
        return True
    return one.shape == two.shape and one.dtype == two.dtype and one.device == two.device and torch.equal(one.detach(), two.detach())


def _by_importance(inputs: Iterable[Any]) -> list[Tensor]:
    """Inputs that carry tokens first, then vectors and masks: where several axes meet, the first gives the name."""
    found: list[Tensor] = []
    for tensor in flat_tensors(tuple(inputs)):
        if traceable(tensor) and tensor.ndim and not any(tensor is other for other in found):
            found.append(tensor)
    return sorted(found, key=_importance)


def _importance(tensor: Tensor) -> int:
    if tensor.is_floating_point() and tensor.ndim >= 3:
        return 0
    if tensor.dtype is torch.bool:
        return 3
    return 1 if tensor.ndim >= 2 else 2
