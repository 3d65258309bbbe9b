"""What a capture feeds: anything with ``update(record)``, and metrics, which can also request readings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Listener(Protocol):
    """An object of your own that receives each record: it only needs ``update``."""

    def update(self, record: Any) -> Any:
        """Take one layer of one forward, an :class:`attviz.records.DiagonalRecord`."""


@runtime_checkable
class Metric(Listener, Protocol):
    """A listener that requests readings. The capture computes each reading once, no matter who asks, and the record carries it.

    A metric never sees an attention call: everything it needs from one is a reading (:mod:`attviz.readings`).

    Attributes:
        readings: What it needs in ``record.readings``; a layer that cannot provide one says why in ``record.reasons``.
    """

    @property
    def readings(self) -> Sequence[Any]:
        """What it needs in ``record.readings``."""

    def prepare(self, model: Any) -> None:
        """Read what is needed from the model, such as its vocabulary size; called once, before the context is entered."""
