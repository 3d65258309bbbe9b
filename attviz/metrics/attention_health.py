"""Is the attention of a model in training healthy: its entropy, its logits, its sinks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attviz.errors import ArgumentError, MetricError
from attviz.metrics._streaming.feeds import LayerDiagonal, read_layers
from attviz.metrics._streaming.moments import Cells, Moments
from attviz.metrics._streaming.shapes import Layout
from attviz.metrics._streaming.states import LayerInfo, State
from attviz.metrics._streaming.streaming import StreamingMetric
from attviz.metrics.alarms import Alarm, Level, OnAlarm, act, check_policy, find_alarms
from attviz.metrics.health_table import HealthTable
from attviz.metrics.rows import Rows, read_rows
from attviz.records import DiagonalRecord

_SAMPLES = ("row_entropy", "choice_entropy", "max_logit", "first_token", "diagonal")


class AttentionHealth(StreamingMetric):
    """Row entropy, largest logit, weight on the first token and mean diagonal, per layer and head, with alarms.

    The entropy of attention rows collapses, and logits explode, before many training runs diverge (Zhai et al., arXiv:2303.06296).
    Rows cost as much as the attention itself, so read them now and then: ``every_forwards=50``. Needs
    ``attviz.capture(model, metrics=[health])``; a diagonal alone does not know its row.

    Args:
        every_forwards: Read each N-th forward of the capture.
        min_entropy: Alarm below this mean row entropy, in nats; None for never.
        max_logit: Alarm above this logit; None for never. Runs that clip logits do so at 100 (arXiv:2507.20534).
        level: Compare the mean (the maximum, for logits) of each ``"layer"``, or each ``"head"``.
        on_alarm: What :meth:`check` does: ``"warn"`` (:class:`AttentionAlarmWarning`), ``"raise"`` (:class:`AttentionAlarmError`),
            ``"ignore"``, or call your function with the tuple of alarms.
        exclude_ids: Vocabulary ids whose rows to leave out.
        **kwargs: Of ``torchmetrics.Metric``.
    """

    def __init__(
        self,
        *,
        every_forwards: int = 1,
        min_entropy: float | None = 0.1,
        max_logit: float | None = 100.0,
        level: Level = "layer",
        on_alarm: OnAlarm = "warn",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if type(every_forwards) is not int or every_forwards < 1:
            raise ArgumentError(f"AttentionHealth: every_forwards={every_forwards!r} must be a whole number of at least 1.")
        check_policy(on_alarm, level)
        self.every_forwards, self.min_entropy, self.max_logit = every_forwards, min_entropy, max_logit
        self.level, self.on_alarm = level, on_alarm

    def update_call(self, call: Any, record: DiagonalRecord) -> None:
        """Take in one layer; ``attviz.capture`` calls this while the call's tensors are alive."""
        if record.step % self.every_forwards == 0:
            self.update(record, call)

    def update(self, record: DiagonalRecord, call: Any = None) -> None:  # type: ignore[override]
        """Take in one layer with the call it came from.

        Raises:
            MetricError: If the call is missing or holds no rows, or the layer is of another model; the state is then as it was.
        """
        try:
            layers = read_layers(record, self._name)
            self._check(layers)
            if call is None or len(layers) != 1:
                raise MetricError(
                    "AttentionHealth: reads attention rows, which a diagonal does not hold. Give it to attviz.capture(model, "
                    "metrics=[health]), or call update_call(call, record)."
                )
            rows = read_rows(call, layers[0].real, record.document_ids if isinstance(record, DiagonalRecord) else None)
        except Exception:
            self._update_count -= 1
            raise
        self._state = self._state + self._sample_rows(layers[0], rows)

    def compute(self) -> HealthTable:
        """Read the quantities so far, of all processes.

        Raises:
            EmptyMetricError: If nothing was seen yet.
        """
        self._require_data()
        layers = sorted(self._state.layers)
        samples = {name: [self._state.moments[f"{name}/{index}"] for index in layers] for name in _SAMPLES}
        width = max(info.num_heads for info in self._state.layers.values())
        device = samples["diagonal"][0].mean.device

        def table(rows: list[Tensor], fill: float = torch.nan) -> Tensor:
            return torch.stack([torch.nn.functional.pad(row.to(device), (0, width - len(row)), value=fill) for row in rows])

        def mean(name: str) -> Tensor:
            return table([sample.seen(sample.mean) for sample in samples[name]])

        return HealthTable(
            tuple(self._state.layers[index].name for index in layers),
            table([sample.count.long() for sample in samples["row_entropy"]], 0),
            mean("row_entropy"),
            table([sample.seen(sample.min) for sample in samples["choice_entropy"]]),
            table([sample.seen(sample.max) for sample in samples["max_logit"]]),
            mean("first_token"),
            mean("diagonal"),
            table([self._state.sums[f"faults/{index}"] for index in layers], 0),
        )

    def check(self) -> tuple[Alarm, ...]:
        """Compare what was seen since ``reset`` with the thresholds, act as ``on_alarm`` says, and give the alarms.

        Reads the device and, among several processes, pools them: call it on all, at the same step.
        """
        alarms = find_alarms(self.compute(), min_entropy=self.min_entropy, max_logit=self.max_logit, level=self.level)
        act(alarms, self.on_alarm)
        return alarms

    def _sample_rows(self, layer: LayerDiagonal, rows: Rows) -> State:
        real = layer.valid(self._excluded_on(layer.diagonal.device))
        where = layer.diagonal.device
        valid = real & (rows.entropy.abs() < torch.inf).to(where)
        logits = torch.full_like(layer.diagonal, -torch.inf) if rows.max_logit is None else rows.max_logit.to(where)
        broken = layer.broken() | (~(rows.entropy.abs() < torch.inf).to(where) & (True if layer.real is None else layer.real.unsqueeze(1)))
        values = {
            "row_entropy": (rows.entropy, valid),
            "choice_entropy": (rows.entropy, valid & rows.choice.to(where)),
            "max_logit": (logits, real & (logits.abs() < torch.inf)),
            "first_token": (rows.first_token, valid),
            "diagonal": (layer.diagonal, valid),
        }
        index = layer.index
        samples = {f"{name}/{index}": Moments.of(value.to(where), mask, (0, 2)) for name, (value, mask) in values.items()}
        return State({index: LayerInfo(layer.num_heads, layer.name)}, samples, {f"faults/{index}": broken.sum((0, 2))})

    def _layout(self, layers: dict[int, LayerInfo]) -> Layout:
        return Layout(
            {f"{name}/{index}": Cells((info.num_heads,)) for index, info in layers.items() for name in _SAMPLES},
            {f"faults/{index}": (torch.int64, (info.num_heads,)) for index, info in layers.items()},
        )
