"""What the numbers of an analysis are, where they are another reading of each token than the attention to its own position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attviz._insights._insight import share

_PROBABILITY = "probability"


@dataclass(frozen=True, slots=True)
class Measure:
    """A reading by name.

    Attributes:
        name: Of the reading, such as ``"row_entropy"``.
        unit: Of its numbers; empty where the analysis does not say.
    """

    name: str
    unit: str = ""

    @property
    def bounded(self) -> bool:
        """Whether every number lies in [0, 1]."""
        return self.unit == _PROBABILITY

    @property
    def axis(self) -> str:
        """Title of an axis.

        Example:
            >>> Measure("row_entropy", "nats").axis
            'row_entropy (nats)'
        """
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def amount(self, value: float) -> str:
        """A number in a sentence.

        Example:
            >>> Measure("row_entropy", "nats").amount(1.2345), Measure("previous", "probability").amount(0.25)
            ('1.23 nats', '25%')
        """
        return share(value) if self.bounded else f"{value:.3g} {self.unit}".rstrip()


def measure_of(source: Any) -> Measure | None:
    """The reading that a comparison or an analysis holds; None for the attention to the own position.

    Example:
        >>> from attviz.records import Analysis
        >>> measure_of(Analysis(("layer",), (), settings={"reading": "row_entropy", "unit": "nats"})).axis
        'row_entropy (nats)'
    """
    reading = getattr(source, "reading", None)
    if reading is not None and hasattr(source, "analyses"):
        return Measure(str(reading.name), str(reading.unit))
    settings = getattr(source, "settings", None) or {}
    return Measure(settings["reading"], settings.get("unit", "")) if settings.get("reading") else None
