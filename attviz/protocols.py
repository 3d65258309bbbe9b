"""What a capture feeds: anything with ``update(record)``, and metrics, which also ask for readings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Listener(Protocol):
    """An object of your own that is given each record: it needs ``update`` and nothing else."""

    def update(self, record: Any) -> Any:
        """Take one layer of one forward, an :class:`attviz.records.DiagonalRecord`."""


@runtime_checkable
class Metric(Listener, Protocol):
    """A listener that asks for readings. The capture makes each reading once, whoever asks for it, and the record carries it.

    A metric never sees an attention call: what it needs of one is a reading (:mod:`attviz.readings`).

    Attributes:
        readings: What it needs in ``record.readings``; a layer that cannot give one says why in ``record.reasons``.
    """

    @property
    def readings(self) -> Sequence[Any]:
        """What it needs in ``record.readings``."""

    def prepare(self, model: Any) -> None:
        """Read off the model what is needed of it, such as the size of its vocabulary; called once, before the context is entered."""
