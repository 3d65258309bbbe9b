"""From attention calls to records: little work while the model runs, the rest when they are read."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attviz.calls import AttentionCall
from attviz.errors import ArgumentError
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.heads import HeadShares
from attviz.hooks.session.knowledge import TokenKnowledge
from attviz.hooks.session.pending import PendingCross, PendingRecord, read_all
from attviz.hooks.session.step import DROP, Step
from attviz.hooks.session.waiting import Waiting
from attviz.protocols import Listener
from attviz.readings import Reading
from attviz.records import DiagonalRecord


class Recorder:
    """Keeps the requested steps, takes the readings and feeds the metrics.

    Attributes:
        steps: The kept forwards; one at most unless ``keep="all"``.
        recorded: Number of forwards that were recorded and ran to their end.
        forwards: Number of forwards seen, recorded or not.
        calls: Number of attention calls recorded in all of them.
        keep: ``"last"``, ``"all"`` or ``"none"``.
        readings: What is read from each call.
        latest: The last forward in which each reading was due.
        cross: Whether cross-attention is read too.
        heads: Which heads this process holds, where several run one model.
    """

    def __init__(
        self,
        metrics: Sequence[Listener],
        keep: str,
        readings: Sequence[Reading] = (),
        cross: bool = False,
        special_ids: tuple[int, ...] = (),
    ) -> None:
        self.steps: list[Step] = []
        self.recorded = self.forwards = self.calls = 0
        self.keep, self.readings, self.cross = keep, tuple(readings), cross
        self.latest: dict[str, Step] = {}
        self.heads: HeadShares | None = None
        self._metrics = tuple(metrics)
        self._knowledge = TokenKnowledge(special_ids)
        self._indices: dict[tuple[str | None, int, bool], int] = {}  # (layer, visit, crossing) -> index, in order of first execution
        self._order: tuple[dict[object, None], dict[object, None]] = ({}, {})

    def begin(self) -> Step:
        """Begin a forward."""
        step = Step(self.forwards, self.recorded, index=self._place)
        step.plain = not self._metrics and not self._due(step) and self.heads is None
        self.forwards += 1
        if self.keep == "last":
            self.steps = []  # before the forward, so that two steps never stand in memory together
        return step

    def add(
        self,
        step: Step,
        layer: str | None,
        call: AttentionCall,
        context: TokenContext | None,
        evidence: str = "",
        *,
        sparse: bool = False,
    ) -> None:
        """Add an attention call of the forward; runs inside the operator.

        Args:
            step: The forward.
            layer: Its module; None if it is not known (yet).
            call: The call.
            context: What is known about its tokens.
            evidence: How it was settled.
            sparse: Whether its mask may hide a token from itself that others see.
        """
        index = len(step.calls) if layer is None else self._index(step, layer)
        pending = PendingRecord.of(call, context, layer, index, step.number, evidence, sparse)
        step.calls.append(pending)
        if context is not None:
            step.past, step.beams = context.past, context.beams
        self.calls += 1
        if self.heads is not None:
            self.heads.note(layer)
        if self.readings and (due := self._due(step)):
            read_all(call, self._knowledge.of(call, context, step, pending.documents, pending.hidden), due, pending)
        if layer is not None:
            self._feed(pending)

    def add_cross(self, step: Step, layer: str, call: AttentionCall, context: TokenContext | None) -> None:
        """Add an attention to another sequence, if ``cross=True``."""
        pending = PendingCross(call, context, layer, self._index(step, layer, crossing=True), step.number)
        step.crossing.append(pending)
        due = [reading for reading in self._due(step) if reading.of_cross]
        read_all(call, self._knowledge.of(call, context, step, None, cross=True), due, pending)

    def end(self, step: Step, names: dict[int, str | None], completed: bool) -> None:
        """End the forward; ``names`` are the layers of the calls that came without one, by index.

        Raises:
            CaptureError: If query or key of a layer was overwritten before the end; the other layers are recorded.
        """
        step.tokens.clear()
        waiting, step.waiting = step.waiting, Waiting()
        if not completed:
            return
        waiting.close()
        self.calls += waiting.count
        for index, name in names.items():
            pending = step.pending[index]
            if name is not None:
                pending.rename(name, index if name == DROP else self._index(step, name))
            if name != DROP:
                self._feed(pending)
        if names:
            step.calls = [pending for pending in step.pending if pending.layer != DROP]
        if waiting.lost:
            step.calls = waiting.without_lost(step.calls)
        if self.heads is not None and self.keep != "none":
            self.heads.settle(step.pending)
        for reading in self._due(step):
            self.latest[reading.name] = step
        self.recorded += 1
        if self.keep == "all":
            step.records()  # half the memory of what is pending
        if self.keep != "none":
            self.steps.append(step)
        if waiting.lost:
            raise waiting.error()

    def _due(self, step: Step) -> list[Reading]:
        return [reading for reading in self.readings if step.sample % reading.every == 0]

    def _index(self, step: Step, layer: str, crossing: bool = False) -> int:
        visit = step.visits.get(layer, 0)
        step.visits[layer] = visit + 1
        return self._place(layer, visit, crossing)

    def _place(self, layer: str | None, visit: int, crossing: bool = False) -> int:
        key = (layer, visit, crossing)
        index = self._indices.get(key)
        if index is None:  # no lock: two threads that meet a layer for the first time together find it in the same place of the same order
            order = self._order[crossing]
            order.setdefault(key)
            index = self._indices[key] = list(order).index(key)
        return index

    def _feed(self, pending: PendingRecord) -> None:
        if self._metrics and self.heads is not None:
            pending.replace(self.heads.settled(pending.record(), fed=True))
        for metric in self._metrics:
            metric.update(pending.record())


def shapes_by_layer(records: Sequence[DiagonalRecord]) -> str:
    """``'encoder.0' .. 'encoder.5': [2, 4, 7]`` for each run of layers with the same shape, for a message."""
    runs: list[tuple[list[str], tuple[int, ...]]] = []
    for record in records:
        name = f"call {record.layer_index}" if record.layer is None else record.layer
        shape = tuple(record.diagonal.shape)
        if runs and runs[-1][1] == shape:
            runs[-1][0].append(name)
        else:
            runs.append(([name], shape))
    return "\n".join(
        f"  {names[0]!r}{f' .. {names[-1]!r}' if len(names) > 1 else ''}: batch={s[0]} num_heads={s[1]} q_len={s[2]}" for names, s in runs
    )


def as_metrics(metrics: Listener | Iterable[Listener] | None) -> list[Listener]:
    """The user's ``metrics=`` as a list; a ``MetricCollection`` is replaced by its members.

    Raises:
        ArgumentError: If one of them has no ``update(record)``, or they come in a dictionary.
    """
    if metrics is None:
        return []
    if isinstance(metrics, Mapping):
        raise ArgumentError("capture: metrics= must be a metric or a list of metrics, not a dictionary. Pass list(metrics.values()).")
    several = [metrics] if isinstance(metrics, Listener) else list(metrics)
    found = [member for metric in several for member in _members(metric)]
    for metric in found:
        if not isinstance(metric, Listener):
            raise ArgumentError(f"capture: a metric needs a method update(record), but {type(metric).__name__} has none.")
    return found


def _members(metric: Any) -> list[Any]:
    torchmetrics = sys.modules.get("torchmetrics")  # if it was not imported, nobody has made a collection
    if torchmetrics is None or not isinstance(metric, torchmetrics.MetricCollection):
        return [metric]
    return list(metric.values(copy_state=False))
