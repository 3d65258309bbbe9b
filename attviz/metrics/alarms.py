"""Alarms of AttentionHealth: what is wrong, where, and by how much; delivered as a warning, an exception or a call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attviz.errors import ArgumentError, AttentionAlarmError, AttentionAlarmWarning

if TYPE_CHECKING:
    from torch import Tensor

    from attviz.metrics.health_table import HealthTable

Kind = Literal["entropy collapse", "exploding logit", "attention sink", "dormant heads", "fault"]
Level = Literal["layer", "head"]
OnAlarm = Literal["warn", "raise", "ignore"] | Callable[[tuple["Alarm", ...]], object]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of AttentionHealth, documented there; None is never crossed."""

    min_entropy: float | None = None
    max_logit: float | None = None
    max_first_token: float | None = None
    max_dormant: float | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """One threshold crossed.

    Attributes:
        kind: ``"entropy collapse"``, ``"exploding logit"``, ``"attention sink"``, ``"dormant heads"``, or ``"fault"`` (NaN or infinite
            values at real tokens).
        layer: Name of the layer, or ``"layer <index>"``.
        layer_index: Its position in the order of execution.
        head: The head, under ``level="head"``; None for the layer.
        value: Mean row entropy in nats, largest logit, mean weight on the first token, share of dormant heads, or number of faults.
        threshold: The threshold it crossed.
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
        if self.kind == "attention sink":
            return f"attention sink in {place}: mean weight on the first token {self.value:.3g} is above {self.threshold:g}"
        if self.kind == "dormant heads":
            return f"dormant heads in {place}: {self.value:.0%} of them, more than {self.threshold:.0%}"
        return f"{self.value:.0f} NaN or infinite rows in {place}"


def find_alarms(table: HealthTable, thresholds: Thresholds, level: Level) -> tuple[Alarm, ...]:
    """Compare a table with the thresholds. Copies a few numbers to the CPU."""
    view = table.per_layer() if level == "layer" else table
    rows: tuple[tuple[Kind, Tensor, float | None, int], ...] = (
        ("entropy collapse", view.row_entropy, thresholds.min_entropy, -1),
        ("exploding logit", view.max_logit, thresholds.max_logit, 1),
        ("attention sink", view.first_token, thresholds.max_first_token, 1),
        ("fault", view.faults, 0, 1),
    )
    alarms = [alarm for kind, values, limit, sign in rows for alarm in _crossed(table, kind, values, limit, sign, level)]
    dormant = _crossed(table, "dormant heads", table.dormant(), thresholds.max_dormant, 1, "layer")
    return tuple(sorted([*alarms, *dormant], key=lambda alarm: (alarm.layer_index, -1 if alarm.head is None else alarm.head)))


def _crossed(table: HealthTable, kind: Kind, values: Tensor, limit: float | None, sign: int, level: Level) -> list[Alarm]:
    """Alarms of one quantity; NaN (nothing seen) never crosses."""
    if limit is None:
        return []
    found: list[Alarm] = []
    for index, row in enumerate(values.reshape(len(table.layers), -1).tolist()):
        name = table.layers[index] or f"layer {index}"
        heads = [head for head, value in enumerate(row) if sign * value > sign * limit]
        found += [Alarm(kind, name, index, head if level == "head" else None, row[head], limit) for head in heads]
    return found


def check_policy(on_alarm: OnAlarm, level: str) -> None:
    """Refuse an unknown policy or level."""
    if not callable(on_alarm) and on_alarm not in ("warn", "raise", "ignore"):
        raise ArgumentError(
            f"AttentionHealth: on_alarm must be one of 'warn', 'raise', 'ignore', or a function of the alarms, got {on_alarm!r}."
        )
    if level not in ("layer", "head"):
        raise ArgumentError(f"AttentionHealth: level must be one of 'layer', 'head', got {level!r}.")


def act(alarms: tuple[Alarm, ...], on_alarm: OnAlarm) -> None:
    """Carry out the user's policy."""
    if not alarms or on_alarm == "ignore":
        return
    if callable(on_alarm):
        on_alarm(alarms)
        return
    shown = "; ".join(str(alarm) for alarm in alarms[:5]) + (f"; and {len(alarms) - 5} more" if len(alarms) > 5 else "")
    if on_alarm == "raise":
        raise AttentionAlarmError(f"AttentionHealth: {shown}. Lower the learning rate, or clip or normalize queries and keys.", alarms)
    warnings.warn(f"AttentionHealth: {shown}", AttentionAlarmWarning, stacklevel=3)
