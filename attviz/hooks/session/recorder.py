"""From attention calls to diagonal records: little work while the model runs, the rest when somebody reads.

While an operator runs only ``q_i . k_i`` is computed, and the log-sum-exp it returned is taken off or kept: the exponential, the clamp and
the padding wait for the first read. At most two numbers a query and head are held per layer, never a view of an activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from attviz.errors import ArgumentError
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.packing import document_ids
from attviz.hooks.session.step import DROP
from attviz.kernels import (
    diagonal_from_logsumexp,
    diagonal_from_qk,
    diagonal_of_bias,
    rows_of_logsumexp,
    self_scores,
    weights_from_scores,
)
from attviz.records import AttentionCall, DiagonalRecord

# A larger log-sum-exp is not kept: made before its layer's output, it would sit between the large blocks of the C allocator, which grew by
# 30 MB at BERT-base 1 x 512 and held nothing.
_DEFERRED = 1024


@runtime_checkable
class Metric(Protocol):
    """Whatever eats records: the streaming metrics of :mod:`attviz.metrics`, or an object of your own.

    A metric that also has ``update_call(call, record)`` gets that instead, with the :class:`attviz.records.AttentionCall` while its
    tensors are alive.
    """

    def update(self, record: DiagonalRecord) -> Any:
        """Take one layer of one forward."""


class PendingDiagonal:
    """What is kept of one attention call until its diagonal is read."""

    __slots__ = (
        "_bias",
        "_context",
        "_diagonal",
        "_documents",
        "_kv_len",
        "_logs",
        "_logsumexp",
        "_record",
        "_scale",
        "_scores",
        "index",
        "layer",
        "source",
        "step",
    )

    def __init__(self, call: AttentionCall, context: TokenContext | None, layer: str | None, index: int, step: int) -> None:
        self.layer, self.index, self.step, self.source = layer, index, step, call.operator
        self._context = context
        self._record: DiagonalRecord | None = None
        self._bias: Tensor | None = None
        self._logs: Tensor | None = None  # logarithms of the weights
        self._documents: Tensor | None = None
        if call.cu_seqlens is not None or (context is not None and context.positions is not None):
            self._documents = document_ids(call, context)
        offset, query, key = call.kv_offset, call.query, call.key
        if query is None or key is None:
            own = call.diagonal
            if own is None:
                assert call.weights is not None
                own = call.weights.diagonal(offset, -2, -1)[..., : call.weights.shape[-2]]
            self._diagonal: Tensor | None = own.to(torch.float32, copy=True)  # not a view: it would keep the whole matrix alive
            return
        if call.logsumexp is None:
            self._diagonal = _without_logsumexp(call, query, key)
            return
        if query.is_cuda:
            # one fused launch, where torch would write the product of query and key out
            rows_lse = rows_of_logsumexp(call.logsumexp, *query.shape[:3])
            self._diagonal = diagonal_from_logsumexp(query, key, rows_lse, scale=call.scale, bias=call.bias, kv_offset=offset)
            return
        self._diagonal = None
        self._scores = self_scores(query, key, offset)
        logsumexp = call.logsumexp
        rows = query.shape[:3]
        self._logsumexp = logsumexp if logsumexp.shape == rows else rows_of_logsumexp(logsumexp, *rows)
        self._scale, self._kv_len = call.scale, key.shape[2]
        if call.bias is not None:
            self._bias = diagonal_of_bias(call.bias, rows[2], offset).clone()
        if self._scores.numel() > _DEFERRED:
            if self._bias is None:  # so no row is masked as a whole, and one number says it all
                self._logs = self._scores.mul_(call.scale).sub_(self._logsumexp)
            else:
                self._diagonal = self._finish()
                self._bias = None
            self._scores = self._logsumexp = None  # type: ignore[assignment]

    def rename(self, layer: str, index: int) -> None:
        """Give a call from a compiled region its layer, once the forward has shown how many there are."""
        self.layer, self.index = layer, index
        if self._record is not None:
            self._record = replace(self._record, layer=layer, layer_index=index)

    def record(self) -> DiagonalRecord:
        """The finished record; computed once."""
        if self._record is None:
            diagonal = self._finish()
            batch, _, q_len = diagonal.shape
            ids = mask = None
            if self._context is not None:
                ids, mask = self._context.ids_of(batch, q_len), self._context.mask_of(batch, q_len)
            if mask is not None:
                if mask.shape[1] > q_len:  # a nested batch is as long as its longest text; the rest is padding of the model
                    diagonal = torch.nn.functional.pad(diagonal, (0, mask.shape[1] - q_len), value=torch.nan)
                diagonal = torch.where(mask[:, None, :].to(diagonal.device), diagonal, torch.nan)
            documents = self._documents
            if documents is not None and documents.shape != (batch, diagonal.shape[2]):
                documents = None
            self._record = DiagonalRecord(self.layer, self.index, self.step, diagonal, ids, mask, self.source, documents)
            self._documents = self._diagonal = self._logs = self._bias = self._context = None
            self._scores = self._logsumexp = None  # type: ignore[assignment]
        return self._record

    @torch.no_grad()
    def _finish(self) -> Tensor:
        if self._diagonal is not None:
            return self._diagonal.clamp(0.0, 1.0)  # not in place: it may be an inference tensor
        if self._logs is not None:
            return self._logs.exp().clamp(0.0, 1.0).float()
        return weights_from_scores(self._scores, self._logsumexp, self._scale, self._bias, kv_len=self._kv_len)


def _without_logsumexp(call: AttentionCall, query: Tensor, key: Tensor) -> Tensor:
    alignment: Literal["top_left", "bottom_right"] = "top_left" if call.is_causal else "bottom_right"
    rules = {"scale": call.scale, "bias": call.bias, "is_causal": call.is_causal}
    return diagonal_from_qk(query, key, causal_alignment=alignment, kv_offset=call.kv_offset, **rules)  # type: ignore[arg-type]


class StepRecording:
    """The calls of one forward, in order of execution.

    Attributes:
        past: Tokens its cache held before it.
        beams: Whether it is a step of a beam search, whose rows change places between the steps.
    """

    __slots__ = ("beams", "number", "past", "pending", "visits")

    def __init__(self, number: int) -> None:
        self.number = number
        self.past: int | Tensor = 0
        self.beams = False
        self.pending: list[PendingDiagonal] = []
        self.visits: dict[str | None, int] = {}  # how often each layer was called in this forward (a shared layer: several times)

    def records(self) -> tuple[DiagonalRecord, ...]:
        """All finished records."""
        return tuple(pending.record() for pending in self.pending)


class Recorder:
    """The sink of an observer: keeps the steps the user asked for and feeds the metrics.

    Attributes:
        steps: The kept forwards; one at most unless ``keep="all"``.
        recorded: Number of forwards that were recorded and ran to their end.
        forwards: Number of forwards seen, recorded or not.
        calls: Number of attention calls recorded in all of them.
        keep: ``"last"``, ``"all"`` or ``"none"``.
    """

    def __init__(self, metrics: Sequence[Metric], keep: str) -> None:
        self.steps: list[StepRecording] = []
        self.recorded = self.forwards = self.calls = 0
        self.keep = keep
        self._live = [metric for metric in metrics if hasattr(metric, "update_call")]
        self._metrics = [metric for metric in metrics if not hasattr(metric, "update_call")]
        self._indices: dict[tuple[str | None, int], int] = {}  # (layer, visit) -> index, in order of first execution

    def begin(self) -> StepRecording:
        """A forward begins."""
        step = StepRecording(self.forwards)
        self.forwards += 1
        if self.keep == "last":
            self.steps = []  # before the forward, so that two steps never stand in memory together
        return step

    def add(self, step: StepRecording, layer: str | None, call: AttentionCall, context: TokenContext | None) -> None:
        """An attention call of the forward; runs inside the operator."""
        index = len(step.pending) if layer is None else self._index(step, layer)
        pending = PendingDiagonal(call, context, layer, index, step.number)
        step.pending.append(pending)
        if context is not None:
            step.past, step.beams = context.past, context.beams
        self.calls += 1
        for metric in self._live:
            metric.update_call(call, pending.record())
        if layer is not None:
            self._feed(pending)

    def end(self, step: StepRecording, names: dict[int, str | None], completed: bool) -> None:
        """The forward ended; ``names`` are the layers of the calls that came without one."""
        if not completed:
            return
        for place, name in names.items():
            pending = step.pending[place]
            if name is not None:
                pending.rename(name, place if name == DROP else self._index(step, name))
            if name != DROP:
                self._feed(pending)
        step.pending = [pending for pending in step.pending if pending.layer != DROP]
        self.recorded += 1
        if self.keep == "all":
            step.records()  # half the memory of what is pending
        if self.keep != "none":
            self.steps.append(step)

    def _index(self, step: StepRecording, layer: str) -> int:
        visit = step.visits.get(layer, 0)
        step.visits[layer] = visit + 1
        return self._indices.setdefault((layer, visit), len(self._indices))

    def _feed(self, pending: PendingDiagonal) -> None:
        for metric in self._metrics:
            metric.update(pending.record())


def shapes_by_layer(records: Sequence[DiagonalRecord]) -> str:
    """``'encoder.0' .. 'encoder.5': [2, 4, 7]`` for each run of layers of one shape, for a message."""
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


def as_metrics(metrics: Metric | Iterable[Metric] | None) -> list[Metric]:
    """What the user gave as ``metrics=``, as a list; raises where one is none."""
    if metrics is None:
        return []
    several = [metrics] if isinstance(metrics, Metric) else list(metrics)
    for metric in several:
        if not isinstance(metric, Metric):
            raise ArgumentError(f"capture: a metric needs a method update(record), which {type(metric).__name__} does not have.")
    return several
