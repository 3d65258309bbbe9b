"""Faults inside a capture while the forward goes on: the first is kept, the others are counted."""

from __future__ import annotations

import traceback


class Faults:
    """Keeps the first fault for the end of the context, without frames that hold activations.

    Attributes:
        first: The first fault; None if there was none.
        count: Number of faults.
    """

    def __init__(self) -> None:
        self.first: Exception | None = None
        self.count = 0
        self._trace = ""

    def keep(self, error: Exception) -> None:
        """Note a fault."""
        self.count += 1
        if self.first is None:
            self._trace = "".join(traceback.format_exception(error))
            _without_frames(error)
            self.first = error

    def raise_first(self) -> None:
        """Raise the first fault, if there was one."""
        if self.first is None:
            return
        if hasattr(self.first, "add_note"):  # Python 3.11
            self.first.add_note(f"attviz: the first of {self.count} faults in this capture; the forward went on:\n{self._trace}")
        raise self.first


def _without_frames(error: BaseException | None) -> None:
    """Remove the tracebacks of an exception and its causes, because their frames hold the tensors of the forward."""
    while error is not None:
        error.__traceback__ = None
        _without_frames(error.__cause__)
        error = error.__context__
