"""Forwards that no container announced: of a model that is not called as a whole, or that was compiled inside the context."""

from __future__ import annotations

import threading
from collections.abc import Callable

from attviz.hooks.session.step import Step


class ImplicitSteps:
    """One step for each thread: all its calls are one forward until one of them comes again.

    Args:
        begin: Begins a step.
        end: Ends one.
    """

    def __init__(self, begin: Callable[[], Step], end: Callable[[Step], None]) -> None:
        self._begin, self._end = begin, end
        self._running: dict[int, Step] = {}  # by thread: one may be gone when the context ends

    def step(self, site: object) -> Step:
        """The step of a call on this thread, by where it comes from."""
        thread = threading.get_ident()
        step = self._running.get(thread)
        if step is None or site in step.sites:
            self.close()
            step = self._running[thread] = self._begin()
        step.sites.add(site)
        return step

    def close(self, *, everywhere: bool = False) -> None:
        """End the step of this thread, or those of all threads."""
        for thread in [*self._running] if everywhere else [threading.get_ident()]:
            step = self._running.pop(thread, None)
            if step is not None:
                self._end(step)

    def forget(self) -> None:
        """Leave all of them unfinished."""
        self._running.clear()
