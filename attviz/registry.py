"""The open tables of attviz: operators, layouts and caches that a user can add to, all under one rule."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from attviz.errors import ArgumentError


class Named(Protocol):
    """An entry of a table."""

    @property
    def name(self) -> str:
        """Under which it stands there."""


Entry = TypeVar("Entry", bound=Named)


class Registry(Generic[Entry]):
    """Entries by name. A second one of the same name is refused, unless it is to replace the first.

    Attributes:
        entries: All of them, the latest first. Every change makes a new tuple, so a loop over an old one is safe.
    """

    def __init__(self, what: str) -> None:
        self.entries: tuple[Entry, ...] = ()
        self.lock = threading.RLock()
        self._what = what

    def add(self, entry: Entry, *, replace: bool = False) -> Entry:
        """Put an entry in front of the others.

        Raises:
            ArgumentError: If the name is taken.
        """
        with self.lock:
            names = [other.name for other in self.entries]
            if entry.name in names and not replace:
                raise ArgumentError(
                    f"register_{self._what}: {self._what} {entry.name!r} is already registered. Pass replace=True to replace it, or give "
                    f"yours another name. Known: {sorted(names)}."
                )
            self.entries = (entry, *(other for other in self.entries if other.name != entry.name))
        return entry

    def remove(self, entry: Entry | str) -> None:
        """Take an entry out again, or whichever has this name; one that is not there is ignored."""
        with self.lock:
            self.entries = tuple(other for other in self.entries if entry not in (other, other.name))


def named_after(function: Callable[..., Any]) -> str:
    """The name of an entry that was given none."""
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
