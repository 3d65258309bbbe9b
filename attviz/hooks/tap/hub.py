"""The one hub between what runs and who listens: listeners, the lock and the busy flag, for the dispatcher tap and the watched functions.

A change is made in two steps: write down who listens, then bring the process in line with it. The second step looks only at what is written
down, so it may be interrupted anywhere and simply run again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from attviz.hooks.tap.operators import Operator


class Listener(Protocol):
    """Whoever wants to see attention."""

    def listening(self) -> bool:
        """Whether this thread is inside something the listener wants to see; asked before each kernel."""

    def observe(self, operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """See one operator call, after its kernel, if it was listening; keeps its own faults to itself, only BaseException passes."""


class Place(NamedTuple):
    """Where callers find a function.

    Attributes:
        owner: A module, a class or an instance that holds it.
        attribute: Under this name, in the owner's own ``__dict__``.
        around: Turns what stands there into what stands there during a capture. What it makes must serve any caller of the process.
    """

    owner: Any
    attribute: str
    around: Callable[[Callable[..., Any]], Callable[..., Any]]


class _Thread(threading.local):
    busy = False  # inside a tapped operator or inside our own arithmetic: record the outermost only


thread_state = _Thread()
lock = threading.RLock()
listeners: tuple[Listener, ...] = ()
_places: dict[int, tuple[Place, ...]] = {}  # the functions that each listener needs, by its identity


def listen(listener: Listener, places: Iterable[Place] = ()) -> None:
    """Show the attention of this process to a listener.

    Args:
        listener: Who wants to see it.
        places: Python functions to watch for it, in addition to the dispatcher's operators.
    """
    global listeners
    wanted = tuple(places)
    try:
        lock.acquire()
        _places[id(listener)] = wanted
        listeners = (*listeners, listener)
        _bring_in_line()
    finally:
        try:
            _let_go()
        finally:
            _let_go()


def unlisten(listener: Listener) -> None:
    """Stop showing it. Idempotent, and what an interrupted call left undone the next one does."""
    global listeners
    try:
        lock.acquire()
        listeners = tuple(other for other in listeners if other is not listener)
        _places.pop(id(listener), None)
        _bring_in_line()
    finally:
        try:
            _let_go()
        finally:
            _let_go()


def _bring_in_line() -> None:
    """Make the overrides and the replaced functions those that the listeners need, and no others."""
    from attviz.hooks.tap import dispatcher, functions

    while True:  # a listener that was garbage may have been taken off meanwhile
        current, wanted = listeners, [place for places in _places.values() for place in places]
        dispatcher.override(bool(current))
        functions.replace(wanted)
        if current is listeners:
            return


def _let_go() -> None:
    """Release the lock, however often this thread holds it; called twice, because an interrupt may come before the first."""
    while lock._is_owned():  # type: ignore[attr-defined]
        lock.release()


def _in_child() -> None:
    """A child of ``os.fork`` has no thread that could let go of the lock."""
    lock._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_in_child)
