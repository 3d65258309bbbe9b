"""The readings of a capture: those that the user and the metrics request, and their values for all layers in one tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from attviz.errors import ArgumentError, CaptureError, RaggedLayersError
from attviz.hooks.session.recorder import Recorder
from attviz.protocols import Listener, Metric
from attviz.readings import Reading

_SHOWN = 4


def asked_readings(read: Reading | Iterable[Reading] | None, metrics: Sequence[Listener], cross: bool) -> tuple[Reading, ...]:
    """What the user and the metrics request, each reading once.

    Raises:
        ArgumentError: If something is not a reading, two share a name, or nothing requested can be read from cross-attention.
    """
    own = () if read is None else (read,) if isinstance(read, Reading) else tuple(read)
    for reading in own:
        if not isinstance(reading, Reading):
            raise ArgumentError(
                f"capture: read= must contain attviz.readings such as Offset(-1) or RowEntropy(), got {reading!r}"
                f"{'; create an instance: ' + reading.__name__ + '(...)' if isinstance(reading, type) else ''}."
            )
    asked: dict[str, Reading] = {}
    for reading in own:
        if reading.name in asked:
            raise ArgumentError(f"capture: two readings are called {reading.name!r}. Give one of them another name=.")
        asked[reading.name] = reading
    for metric in metrics:
        if isinstance(metric, Metric):
            for reading in metric.readings:
                asked[reading.name] = _shared(asked.get(reading.name), reading, metric)
    if cross and not any(reading.of_cross for reading in asked.values()):
        raise ArgumentError(
            "capture: cross=True reads cross-attention, where no key is a query's own. Put a reading that needs none into read=: Rows, "
            "Keys, Segments, TopKeys, RowEntropy, MaxLogit, Received or QueryKey."
        )
    return tuple(asked.values())


def _shared(present: Reading | None, reading: Reading, metric: Metric) -> Reading:
    """One reading that serves both: it is read whenever either is due."""
    if present is None:
        return reading
    if not _alike(present, reading):
        raise ArgumentError(
            f"capture: {type(metric).__name__} needs the reading {reading!r}, but another reading has that name. Give that one "
            "another name=."
        )
    return dataclasses.replace(present, every=math.gcd(present.every, reading.every))


def _alike(one: Reading, other: Reading) -> bool:
    def settings(reading: Reading) -> list[Any]:
        return [getattr(reading, field.name) for field in dataclasses.fields(reading) if field.name != "every"]

    def same(a: Any, b: Any) -> bool:
        return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)

    return type(one) is type(other) and all(map(same, settings(one), settings(other)))


def stacked_reading(recorder: Recorder, name: str, cross: bool, why_empty: Callable[[], str]) -> Tensor:
    """One reading of all layers, from the last forward in which it was due; raises if a layer has none."""
    base = next((reading.name for reading in recorder.readings if name == reading.name or name.startswith(reading.name + ".")), None)
    if base is None:
        known = ", ".join(repr(reading.name) for reading in recorder.readings) or "none"
        raise CaptureError(f"cap.reading: no reading is called {name!r}; there are {known}. Request it: attviz.capture(model, read=[...]).")
    step = recorder.latest.get(base)
    if step is None:
        raise CaptureError(why_empty())
    records: Sequence[Any] = step.cross_records() if cross else step.records()
    if not records:
        kind = "cross-attention" if cross else "self-attention"
        raise CaptureError(
            f"cap.reading: {name!r} was read in a forward without {kind}{'' if cross else '; cross=True reads the other kind'}."
        )
    missing = [record for record in records if name not in record.readings]
    if missing:
        raise CaptureError(_missing(name, base, missing, len(records)))
    found = [record.readings[name] for record in records]
    if len({tensor.shape for tensor in found}) > 1:
        shapes = "\n".join(f"  {record.layer!r}: {tuple(tensor.shape)}" for record, tensor in zip(records, found, strict=True))
        raise RaggedLayersError(
            f"cap.reading: {name!r} has layers of different shapes, which cannot be stacked:\n{shapes}\n"
            "  Read record.readings of each record in cap.records, or capture one tower with layers=."
        )
    return torch.stack(found)


def _missing(name: str, base: str, missing: Sequence[Any], total: int) -> str:
    parts = sorted({part for record in missing for part in record.readings if part.startswith(base + ".")})
    if parts:
        return f"cap.reading: {base!r} has several parts: {', '.join(map(repr, parts))}. Name one of them instead of {name!r}."
    shown = "\n".join(f"  {record.layer!r}: {record.reasons.get(base, 'not read')}" for record in missing[:_SHOWN])
    more = f"\n  and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return (
        f"cap.reading: {len(missing)} of {total} layers could not provide {name!r}:\n{shown}{more}\n"
        "  The others are in record.readings of cap.records."
    )
