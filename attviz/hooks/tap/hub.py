"""The one hub between what runs and who listens: listeners, the lock and the busy flag, for the dispatcher tap and the watched functions.

A change takes two steps: record who listens, then update the process to match. The second step depends only on the record, so it can be
interrupted anywhere and simply be run again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from attviz.hooks.tap.operators import Operator


class Listener(Protocol):
    """An object that wants to see attention."""

    def listening(self) -> bool:
        """Whether this thread runs something the listener wants to see; checked before each kernel."""

    def observe(self, operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """See one operator call, after its kernel, if it was listening; keeps its own faults to itself, and only BaseException passes."""


class Place(NamedTuple):
    """Where callers find a function.

    Attributes:
        owner: A module, a class or an instance that holds it.
        attribute: Its name in the owner's own ``__dict__``.
        around: Turns the original into its replacement during a capture, which must serve every caller in the process.
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
        listener: The listener.
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
    """Stop showing it. Idempotent; a call finishes what an interrupted one left undone."""
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
    """Install exactly the overrides and replaced functions that the listeners need."""
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
    """Renew the lock in a child of ``os.fork``, which has no thread that could release it."""
    lock._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_in_child)
