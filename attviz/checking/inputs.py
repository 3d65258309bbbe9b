"""Which inputs of a module carry tokens, and which of them carry the same ones: these are disturbed together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attviz.checking.untouched import tensors_in


@dataclass(eq=False)
class Group:
    """Inputs that hold the same tokens: ``attention(x, x, x)`` uses the same tokens as queries and keys.

    Attributes:
        tensor: One of them.
        same: Those of equal value, itself among them.
        around: Larger ones in which it stands at the beginning or at the end of an axis, with that axis and where it begins: latents that
            ask the features and themselves.
    """

    tensor: Tensor
    same: list[Tensor] = field(default_factory=list)
    around: list[tuple[Tensor, int, int]] = field(default_factory=list)

    def replaced(self, moved: Tensor) -> dict[int, Any]:
        """What each of the inputs, by its ``id``, becomes where the tensor becomes ``moved``."""
        found: dict[int, Any] = {id(tensor): moved for tensor in self.same}
        for whole, axis, start in self.around:
            copy = whole.detach().clone()
            copy.narrow(axis, start, moved.shape[axis]).copy_(moved)
            found[id(whole)] = copy
        return found


def groups_of(given: Any) -> Iterator[Group]:
    """Inputs that can carry tokens, by what they hold."""
    groups: list[Group] = []
    for tensor in tensors_in(given):
        if not tensor.is_floating_point() or tensor.ndim < 2 or not tensor.numel() or _is_mask(tensor):
            continue
        same = next((group for group in groups if group.tensor is tensor or _equal(group.tensor, tensor)), None)
        if same is None:
            groups.append(Group(tensor, [tensor]))
        else:
            same.same.append(tensor)
    for group in groups:
        for other in groups:
            if (place := _place_in(group.tensor, other.tensor)) is not None:
                group.around += [(tensor, *place) for tensor in other.same]
    yield from groups


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.is_nested or other.is_nested:
        return False
    return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))


def _place_in(part: Tensor, whole: Tensor) -> tuple[int, int] | None:
    """The one axis along which ``part`` is shorter, and where it begins there; None where it is no part of ``whole``."""
    if part.is_nested or whole.is_nested or part.ndim != whole.ndim or part.dtype != whole.dtype or part.device != whole.device:
        return None
    differing = [axis for axis, (one, other) in enumerate(zip(part.shape, whole.shape, strict=True)) if one != other]
    if len(differing) != 1 or not 0 < differing[0] < part.ndim - 1 or part.shape[differing[0]] > whole.shape[differing[0]]:
        return None
    axis, length = differing[0], part.shape[differing[0]]
    starts = (0, whole.shape[axis] - length)
    return next(((axis, start) for start in starts if torch.equal(whole.narrow(axis, start, length), part)), None)


def _is_mask(tensor: Tensor) -> bool:
    """Whether it holds nothing but zero and one large negative number."""
    if tensor.is_nested:
        return False
    low = tensor.min()
    return bool(((tensor == 0) | (tensor == low)).all()) and float(low) <= 0.0
