"""Alarms of AttentionHealth: what is wrong, where, and by how much; said as a warning, an exception or a call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attviz.errors import ArgumentError, AttentionAlarmError, AttentionAlarmWarning

if TYPE_CHECKING:
    from attviz.metrics.health_table import HealthTable

Kind = Literal["entropy collapse", "exploding logit", "fault"]
Level = Literal["layer", "head"]
OnAlarm = Literal["warn", "raise", "ignore"] | Callable[[tuple["Alarm", ...]], object]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One threshold crossed.

    Attributes:
        kind: ``"entropy collapse"``, ``"exploding logit"``, or ``"fault"`` (NaN or infinite values at real tokens).
        layer: Name of the layer, or ``"layer <index>"``.
        layer_index: Its place in the order of execution.
        head: The head, under ``level="head"``; None for the layer.
        value: Mean row entropy in nats, largest logit, or number of faults.
        threshold: What it crossed.
    """

    kind: Kind
    layer: str
    layer_index: int
    head: int | None
    value: float
    threshold: float

    def __str__(self) -> str:
        place = self.layer if self.head is None else f"{self.layer} head {self.head}"
        if self.kind == "entropy collapse":
            return f"entropy collapse in {place}: mean row entropy {self.value:.3g} nats is below {self.threshold:g}"
        if self.kind == "exploding logit":
            return f"exploding logit in {place}: {self.value:.4g} is above {self.threshold:g}"
        return f"{self.value:.0f} NaN or infinite rows in {place}"


def find_alarms(table: HealthTable, *, min_entropy: float | None, max_logit: float | None, level: Level) -> tuple[Alarm, ...]:
    """Compare a table with the thresholds; copies a few numbers to the CPU."""
    view = table.per_layer() if level == "layer" else table
    alarms: list[Alarm] = []
    columns = (view.row_entropy.reshape(len(table.layers), -1), view.max_logit.reshape(len(table.layers), -1))
    faults = view.faults.reshape(len(table.layers), -1)
    for index, (entropies, logits, broken) in enumerate(zip(*(c.tolist() for c in (*columns, faults)), strict=True)):
        name = table.layers[index] or f"layer {index}"
        for place, (entropy, logit, fault) in enumerate(zip(entropies, logits, broken, strict=True)):
            head = place if level == "head" else None
            if min_entropy is not None and entropy < min_entropy:  # NaN, where nothing was seen, compares False
                alarms.append(Alarm("entropy collapse", name, index, head, entropy, min_entropy))
            if max_logit is not None and logit > max_logit:
                alarms.append(Alarm("exploding logit", name, index, head, logit, max_logit))
            if fault:
                alarms.append(Alarm("fault", name, index, head, fault, 0))
    return tuple(alarms)


def check_policy(on_alarm: OnAlarm, level: str) -> None:
    """Refuse a policy or level that is none."""
    if not callable(on_alarm) and on_alarm not in ("warn", "raise", "ignore"):
        raise ArgumentError(f"AttentionHealth: on_alarm={on_alarm!r} is none of 'warn', 'raise', 'ignore', or a function of the alarms.")
    if level not in ("layer", "head"):
        raise ArgumentError(f"AttentionHealth: level={level!r} is none of 'layer', 'head'.")


def act(alarms: tuple[Alarm, ...], on_alarm: OnAlarm) -> None:
    """Do what the user chose."""
    if not alarms or on_alarm == "ignore":
        return
    if callable(on_alarm):
        on_alarm(alarms)
        return
    shown = "; ".join(str(alarm) for alarm in alarms[:5]) + (f"; and {len(alarms) - 5} more" if len(alarms) > 5 else "")
    if on_alarm == "raise":
        raise AttentionAlarmError(f"AttentionHealth: {shown}. Lower the learning rate, or clip or normalize queries and keys.", alarms)
    warnings.warn(f"AttentionHealth: {shown}", AttentionAlarmWarning, stacklevel=3)
