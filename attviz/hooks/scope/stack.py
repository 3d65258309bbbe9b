"""What is running now, according to the Python stack: the only file that looks at frames.

Every call of a module passes through ``nn.Module._wrapped_call_impl`` and, unless it is compiled in place, ``_call_impl``; their frames
hold the module. So the tap can name the innermost module without a hook on it: inside compiled regions, inside the fast path of
``nn.TransformerEncoderLayer`` (which a hook would switch off), and for modules nobody expected to attend.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

from torch import nn

_CODES = (nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__)


class Running(NamedTuple):
    """A module that is being called, its arguments, and which call it is (the identity of its frame)."""

    module: nn.Module
    identity: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def running_modules() -> Iterator[Running]:
    """Modules being called on this thread, innermost first."""
    frame = sys._getframe(1)
    previous: nn.Module | None = None
    while frame is not None:
        if frame.f_code in _CODES:
            seen = frame.f_locals
            module = seen["self"]
            if module is not previous:  # _wrapped_call_impl right above its own _call_impl
                yield Running(module, id(frame), seen["args"], seen["kwargs"])
            previous = module
        frame = frame.f_back  # type: ignore[assignment]


def runs_in(function: str, depth: int) -> bool:
    """Whether a function of this name is among the last ``depth`` callers of this thread."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(depth):
        if frame is None:
            return False
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


def called_from(file: str) -> bool:
    """Whether a function from the Python module of this name is between the running module and the caller."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in _CODES:
        if frame.f_globals.get("__name__") == file:
            return True
        frame = frame.f_back
    return False


def variable_of_caller(name: str, depth: int) -> Any:
    """Value of a local variable in the nearest of the last ``depth`` callers, except the asking one, that has it; None if none does."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(depth):
        if frame is None:
            break
        if name in frame.f_code.co_varnames:
            return frame.f_locals.get(name)
        frame = frame.f_back
    return None


def calling_object(attributes: tuple[str, ...], depth: int) -> Any:
    """``self`` of the nearest of the last ``depth`` callers, not counting the asking one, that has these attributes; None if none does."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(depth):
        if frame is None:
            break
        if "self" in frame.f_code.co_varnames:
            found = frame.f_locals.get("self")
            if all(hasattr(found, attribute) for attribute in attributes):
                return found
        frame = frame.f_back
    return None


def call_site() -> int:
    """Where an operator was called in generated code: every frame and line up to the module that runs it."""
    places: list[tuple[int, int]] = []
    frame = sys._getframe(1)
    while frame is not None and frame.f_code not in _CODES:
        places.append((id(frame.f_code), frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return hash(tuple(places))
