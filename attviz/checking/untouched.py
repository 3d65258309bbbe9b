"""Leaves the model and the random numbers as they were, whatever a trial run of the model does to them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put back what a forward stores on its modules: attributes (maps, caches, counters) and the content of buffers."""
    modules = list(model.modules())
    attributes = [dict(module.__dict__) for module in modules]
    buffers = [{name: (buffer, buffer.clone()) for name, buffer in module._buffers.items() if buffer is not None} for module in modules]
    versions = [{name: _version(buffer) for name, (buffer, _) in kept.items()} for kept in buffers]
    try:
        yield
    finally:
        for module, kept, held, was in zip(modules, attributes, buffers, versions, strict=True):
            for name in set(module.__dict__) - set(kept):
                del module.__dict__[name]
            module.__dict__.update(kept)
            for name, (buffer, content) in held.items():
                if was[name] is None or _version(buffer) != was[name]:
                    with torch.no_grad():
                        buffer.copy_(content)
                module._buffers[name] = buffer
            for name in set(module._buffers) - set(held):
                if module._buffers[name] is not None:
                    del module._buffers[name]


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written; None if torch does not count (inference tensors)."""
    return None if tensor.is_inference() else int(tensor._version)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Inside, random numbers are drawn from the present state of the generators; afterwards that state is restored."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module is back in its own mode (a frozen batch norm stays frozen)."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


def fresh(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """A copy of the arguments of a forward, which it may write to; a tensor passed twice stays one tensor.

    Args:
        value: Tensors in containers and caches; modules, functions and plain values are passed on as they are.
        memo: Copies made so far, by the ``id`` of the original.
    """
    memo = {} if memo is None else memo
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, Tensor):
        memo[id(value)] = value.detach().clone()
        return memo[id(value)]
    if type(value) in (list, tuple):
        return type(value)(fresh(item, memo) for item in value)
    if type(value) is dict:
        return {name: fresh(item, memo) for name, item in value.items()}
    if isinstance(value, (type, nn.Module)) or callable(value) or not hasattr(value, "__dict__"):
        return value
    try:
        return copy.deepcopy(value, memo)  # a cache, even an empty one, is an object that a forward writes to
    except Exception:  # deepcopy refuses tensors with a gradient, locks, files
        return _copied(value, memo)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """Like deepcopy for objects that hold tensors; others are shared."""
    if not _holds_tensors(value):
        return value
    memo[id(value)] = copied = copy.copy(value)
    if isinstance(copied, dict):
        copied.update({name: fresh(item, memo) for name, item in copied.items()})
    for name, item in list(vars(copied).items()):
        vars(copied)[name] = fresh(item, memo)
    return copied


def _holds_tensors(value: Any, depth: int = 4) -> bool:
    """Whether there are tensors in an object, its attributes, their attributes and so on."""
    if isinstance(value, Tensor):
        return True
    if depth == 0 or isinstance(value, (type, nn.Module)) or callable(value):
        return False
    parts: list[Any] = list(value) if isinstance(value, (list, tuple)) else []
    parts += list(value.values()) if isinstance(value, dict) else []
    parts += list(vars(value).values()) if hasattr(value, "__dict__") else []
    return any(_holds_tensors(part, depth - 1) for part in parts)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers and outputs of models, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name, None))
