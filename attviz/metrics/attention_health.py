"""Whether a model's attention stays healthy in training: its entropy, its logits, its sinks."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from attviz.errors import ArgumentError, AttentionAlarmWarning, MetricError
from attviz.metrics._streaming.feeds import LayerValues, per_token, read_layers
from attviz.metrics._streaming.moments import Cells, Moments
from attviz.metrics._streaming.shapes import Layout
from attviz.metrics._streaming.states import LayerInfo, State
from attviz.metrics._streaming.streaming import StreamingMetric
from attviz.metrics.alarms import Alarm, Level, OnAlarm, Thresholds, act, check_policy, find_alarms
from attviz.metrics.health_table import HealthTable
from attviz.readings import Keys, MaxLogit, Reading, RowEntropy, Visible
from attviz.records import DiagonalRecord

_SAMPLES = ("row_entropy", "choice_entropy", "max_logit", "first_token", "diagonal")


class AttentionHealth(StreamingMetric):
    """Row entropy, largest logit, weight on the first token and mean diagonal, per layer and head, with alarms.

    The entropy of attention rows collapses, and logits explode, before many training runs diverge (Zhai et al., arXiv:2303.06296).
    It requests ``RowEntropy``, ``MaxLogit``, ``Keys(first=1)`` and ``Visible`` from the capture, on any kernel the model uses. That takes a
    pass over all pairs, as costly as the attention itself, so sample it: ``every_forwards=50``. If a kernel exposes no logits (a fused
    kernel that returns weights only), one warning says so, because the logit alarm cannot fire there.

    Args:
        every_forwards: Read every N-th forward of the capture.
        min_entropy: Alarm below this mean row entropy, in nats; None for never.
        max_logit: Alarm above this logit; None for never. Runs that clip logits do so at 100 (arXiv:2507.20534).
        max_first_token: Alarm above this mean weight on the first token, when a sink takes over; None for never. Many healthy language
            models have strong sinks in some heads, so choose it for your model, or compare with an earlier checkpoint.
        max_dormant: Alarm if more than this share of a layer's heads is dormant: puts more than 0.9 of its attention on the first
            token and so reads almost nothing (arXiv:2410.13835); None for never.
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
        max_first_token: float | None = None,
        max_dormant: float | None = None,
        level: Level = "layer",
        on_alarm: OnAlarm = "warn",
        **kwargs: Any,
    ) -> None:
        if "reading" in kwargs:
            raise ArgumentError("AttentionHealth: chooses its own readings. reading= is an option of HeadStatistics and similar metrics.")
        super().__init__(**kwargs)
        if type(every_forwards) is not int or every_forwards < 1:
            raise ArgumentError(f"AttentionHealth: every_forwards must be an integer of at least 1, got {every_forwards!r}.")
        check_policy(on_alarm, level)
        self.every_forwards, self.level, self.on_alarm = every_forwards, level, on_alarm
        self.thresholds = Thresholds(min_entropy, max_logit, max_first_token, max_dormant)
        self._entropy, self._logit = RowEntropy(every=every_forwards), MaxLogit(every=every_forwards)
        self._first, self._visible = Keys(first=1, every=every_forwards), Visible(every=every_forwards)
        self._told = False

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The readings it requests from the capture."""
        return self._entropy, self._logit, self._first, self._visible

    def update(self, source: DiagonalRecord) -> None:  # type: ignore[override]
        """Add one layer whose record has the readings; a forward in which they were not due is ignored.

        Raises:
            MetricError: If no capture computed the readings, or the layer belongs to another model; the state is unchanged.
        """
        try:
            layers = read_layers(source, self._name)
            if not isinstance(source, DiagonalRecord) or not self._read(source):
                self._refuse(source)
                layers = []
            self._check(layers)
        except Exception:
            self._update_count -= 1
            raise
        if layers:
            self._state = self._state + self._sample_record(layers[0], source)
        else:
            self._update_count -= 1

    def _read(self, record: DiagonalRecord) -> bool:
        for reading in (self._entropy, self._first, self._visible, self._logit):
            self._note(record, reading.name)
        if self._logit.name in record.reasons and self.thresholds.max_logit is not None and not self._told:
            self._told = True
            layer, why = record.layer or f"layer {record.layer_index}", record.reasons[self._logit.name]
            warnings.warn(
                f"AttentionHealth: no largest logit in {layer}: {why}. "
                'The alarm on max_logit cannot fire there. Use a kernel that exposes logits (model.set_attn_implementation("sdpa")), or '
                "pass max_logit=None.",
                AttentionAlarmWarning,
                stacklevel=2,
            )
        return all(reading.name in record.readings for reading in (self._entropy, self._first, self._visible))

    def _refuse(self, source: Any) -> None:
        """Raise unless the readings were just not due, or the record says why it has none."""
        if isinstance(source, DiagonalRecord) and (self._entropy.name in source.reasons or self.every_forwards > 1):
            return
        raise MetricError(
            "AttentionHealth: needs attention rows, which a diagonal does not contain. Pass it to attviz.capture(model, metrics=[health]), "
            "or request its readings: attviz.capture(model, read=health.readings)."
        )

    def compute(self) -> HealthTable:
        """Compute the quantities so far, over all processes.

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
        """Compare what was seen since ``reset`` with the thresholds, act as ``on_alarm`` says, and return the alarms.

        Waits for the device and, with several processes, pools over them: call it on all of them at the same step.
        """
        alarms = find_alarms(self.compute(), self.thresholds, self.level)
        act(alarms, self.on_alarm)
        return alarms

    def _sample_record(self, layer: LayerValues, record: DiagonalRecord) -> State:
        where = layer.values.device
        real = layer.valid(self._excluded_on(where))

        def read(reading: Reading) -> Tensor:
            return per_token(record, reading.name, self._name).to(where)

        entropy, visible = read(self._entropy), read(self._visible)
        logits = read(self._logit) if self._logit.name in record.readings else torch.full_like(layer.values, -torch.inf)
        finite = entropy.abs() < torch.inf
        valid = real & finite
        values = {
            "row_entropy": (entropy, valid),
            "choice_entropy": (entropy, valid & (visible > 1)),  # a row without a choice has entropy 0 by construction
            "max_logit": (logits, real & (logits.abs() < torch.inf)),
            "first_token": (read(self._first), valid),
            "diagonal": (layer.values, valid),
        }
        broken = layer.broken() | (~finite & (True if layer.real is None else layer.real.unsqueeze(1)))
        index = layer.index
        samples = {f"{name}/{index}": Moments.of(value, mask, (0, 2)) for name, (value, mask) in values.items()}
        return State({index: LayerInfo(layer.num_heads, layer.name)}, samples, {f"faults/{index}": broken.sum((0, 2))})

    def _layout(self, layers: dict[int, LayerInfo]) -> Layout:
        return Layout(
            {f"{name}/{index}": Cells((info.num_heads,)) for index, info in layers.items() for name in _SAMPLES},
            {f"faults/{index}": (torch.int64, (info.num_heads,)) for index, info in layers.items()},
        )
