"""Whose forward this is if several coroutines share a thread: a capture sees what runs in the coroutine that entered it."""

from __future__ import annotations

import asyncio
import sys
from contextvars import ContextVar

_entered: ContextVar[tuple[int, ...]] = ContextVar("attviz_captures", default=())


class Place:
    """Where a capture was entered: in a coroutine, or not.

    Attributes:
        bound: Whether it was in a coroutine; checked first on the hot path, because it rarely is.
    """

    def __init__(self) -> None:
        self.bound = False

    def enter(self) -> None:
        """Remember the running coroutine, if any; tasks and threads that it starts inherit it."""
        if _in_task():
            self.bound = True
            _entered.set((*_entered.get(), id(self)))

    def leave(self) -> None:
        """Forget it."""
        if self.bound:
            _entered.set(tuple(other for other in _entered.get() if other != id(self)))

    def elsewhere(self) -> bool:
        """Whether what runs now belongs to another coroutine."""
        if not self.bound:
            return False
        entered = _entered.get()
        return id(self) not in entered and (bool(entered) or _in_task())


def _in_task() -> bool:
    if "asyncio" not in sys.modules:
        return False
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
