"""What :func:`attviz.check` found: one row per layer, a verdict for all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["verified", "differs", "could not tell"]


@dataclass(frozen=True)
class LayerCheck:
    """One attention of the model: what the reference saw and what the capture recorded.

    Attributes:
        layer: Qualified module name.
        status: ``verified``: the numbers, or the reason why there are none, are right. ``differs``: they are wrong or silently missing.
            ``could not tell``: the evidence is not sufficient; the capture may be right.
        error: Largest difference of a weight from the float64 reference; NaN if there is nothing to compare.
        evidence: What was seen, in a sentence.
        shape: Shape of the recorded diagonal, [batch, num_heads, q_len]; None without a record.
        operator: The operator that computed the attention; empty if none ran.
    """

    layer: str
    status: Status
    error: float
    evidence: str
    shape: tuple[int, ...] | None = None
    operator: str = ""


@dataclass(frozen=True)
class Check:
    """The result of :func:`attviz.check`. ``print(check)`` shows the table; ``check.ok`` decides.

    Attributes:
        model: Class name of the model.
        layers: One row per attention of the forward, and per module that the capture skipped.
        outputs_identical: Whether outputs and random numbers of the forward are bit-identical with and without the capture.
        warnings: Warnings of the capture.
    """

    model: str
    layers: tuple[LayerCheck, ...]
    outputs_identical: bool
    warnings: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True if every layer is verified and the outputs are identical."""
        return self.outputs_identical and all(row.status == "verified" for row in self.layers)

    def of(self, status: Status) -> tuple[LayerCheck, ...]:
        """The layers of one status."""
        return tuple(row for row in self.layers if row.status == status)

    def __str__(self) -> str:
        head = ("layer", "verdict", "error", "evidence")
        rows = [(row.layer or "(the model itself)", row.status, _error(row.error), row.evidence) for row in self.layers]
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(3)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in (head, *rows)]
        return "\n".join([self._headline(), "", *lines, *(f"\n{text}" for text in self.warnings)])

    def __repr__(self) -> str:
        return f"<Check {self._headline()}>"

    def _headline(self) -> str:
        statuses: tuple[Status, ...] = ("verified", "differs", "could not tell")
        counts = [f"{len(found)} {status}" for status in statuses if (found := self.of(status))]
        outputs = "outputs bit-identical" if self.outputs_identical else "OUTPUTS CHANGED"
        return f"{self.model}: {'ok' if self.ok else 'NOT OK'}, {', '.join(counts) or 'no attention'}, {outputs}"


def _error(error: float) -> str:
    return "-" if math.isnan(error) else f"{error:.0e}"
