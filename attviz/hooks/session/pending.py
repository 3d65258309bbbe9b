"""What is kept of one attention call until it is read: a half-computed diagonal, and the readings, which need the live call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from attviz.calls import AttentionCall
from attviz.calls.deferred import Deferred
from attviz.calls.together import Share
from attviz.errors import ReadingError
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.packing import document_ids
from attviz.hooks.session.padding import Hidden, hidden_keys, real_queries
from attviz.modes import outside_inference
from attviz.readings import Reading, Tokens
from attviz.records import CrossRecord, DiagonalRecord


class PendingRecord:
    """One self-attention. Never holds a view of an activation."""

    __slots__ = (
        *("_context", "_deferred", "_record"),
        *("documents", "evidence", "hidden", "index", "layer", "operator", "readings", "reasons", "step"),
    )

    def __init__(
        self,
        layer: str | None,
        index: int,
        step: int,
        operator: str,
        evidence: str,
        context: TokenContext | None,
        deferred: Deferred | Share,
        hidden: Hidden | bool | None,
        documents: Tensor | None = None,
    ) -> None:
        self.layer, self.index, self.step, self.operator, self.evidence = layer, index, step, operator, evidence
        self._context, self._deferred, self.hidden, self.documents = context, deferred, hidden, documents
        self._record: DiagonalRecord | None = None
        self.readings: dict[str, Tensor] = {}
        self.reasons: dict[str, str] = {}

    @classmethod
    def of(
        cls,
        call: AttentionCall,
        context: TokenContext | None,
        layer: str | None,
        index: int,
        step: int,
        evidence: str,
        sparse: bool = False,
    ) -> PendingRecord:
        """Create one from a call of any kind, as its operator saw it."""
        documents = None
        if call.cu_seqlens is not None or (context is not None and context.positions is not None):
            documents = document_ids(call, context)
        deferred = call.defer()
        hidden = hidden_keys(call, context is not None and context.mask is not None, deferred.added, sparse)
        return cls(layer, index, step, call.operator, evidence, context, deferred, hidden, documents)

    def rename(self, layer: str, index: int) -> None:
        """Name the layer of a call from a compiled region, once the forward has shown how many there are."""
        self.layer, self.index = layer, index
        if self._record is not None:
            self._record = replace(self._record, layer=layer, layer_index=index)

    def replace(self, record: DiagonalRecord) -> None:
        """Replace the record."""
        self._record = record

    def record(self) -> DiagonalRecord:
        """The finished record; computed once."""
        if self._record is None:
            diagonal = self._deferred.finish()
            batch, _, q_len = diagonal.shape
            ids = mask = None
            if self._context is not None:
                ids, mask = self._context.ids_of(batch, q_len), self._context.mask_of(batch, q_len)
            hidden = self.hidden
            if hidden is None and isinstance(self._deferred, Share) and (copies := self._deferred.added) is not None:
                hidden = Hidden(*copies)
            mask = real_queries(mask, hidden, batch, q_len)
            if mask is not None:
                if mask.shape[1] > q_len:  # a nested batch is as long as its longest text; the rest is padding of the model
                    diagonal = torch.nn.functional.pad(diagonal, (0, mask.shape[1] - q_len), value=torch.nan)
                diagonal = torch.where(mask[:, None, :].to(diagonal.device), diagonal, torch.nan)
            documents = self.documents
            if documents is not None and documents.shape != (batch, diagonal.shape[2]):
                documents = None
            read = (self.readings, self.reasons) if self.readings or self.reasons else ({}, {})
            self._record = DiagonalRecord(
                self.layer, self.index, self.step, diagonal, ids, mask, self.operator, documents, *read, self.evidence
            )
            self.documents = self._context = self._deferred = self.hidden = None  # type: ignore[assignment]
        return self._record


class PendingCross:
    """One attention to another sequence: only what was read from it."""

    __slots__ = ("_context", "_shape", "index", "layer", "operator", "readings", "reasons", "step")

    def __init__(self, call: AttentionCall, context: TokenContext | None, layer: str | None, index: int, step: int) -> None:
        self.layer, self.index, self.step, self.operator = layer, index, step, call.operator
        self._context, self._shape = context, (call.shape[0], call.shape[2])
        self.readings: dict[str, Tensor] = {}
        self.reasons: dict[str, str] = {}

    def record(self) -> CrossRecord:
        """The finished record."""
        ids = mask = None
        if self._context is not None:
            ids, mask = self._context.ids_of(*self._shape), self._context.mask_of(*self._shape)
        return CrossRecord(self.layer, self.index, self.step, self.readings, self.reasons, ids, mask, self.operator)


def read_all(call: AttentionCall, tokens: Tokens, readings: Iterable[Reading], pending: PendingRecord | PendingCross) -> None:
    """Take every reading from a call; a reading it cannot provide becomes a reason."""
    device = call.device.type
    # readings are kept, so they must not be inference tensors; and they are made in float32 whatever autocast says
    with outside_inference(), torch.no_grad(), torch.autocast(device, enabled=False):
        for reading in readings:
            try:
                found = reading.read(call, tokens)
            except ReadingError as error:
                pending.reasons[reading.name] = str(error)
                continue
            parts = (
                {f"{reading.name}.{part}": tensor for part, tensor in found.items()}
                if isinstance(found, Mapping)
                else {reading.name: found}
            )
            for name, tensor in parts.items():
                pending.readings[name] = _padded_out(tensor, tokens) if reading.per == "query" else tensor


def _padded_out(found: Tensor, tokens: Tokens) -> Tensor:
    """Set values to NaN (integers to -1) where the query is padding."""
    real = tokens.real
    if real is None or found.ndim < 3 or found.shape[2] != real.shape[1]:
        return found
    nothing = torch.nan if found.is_floating_point() else -1
    real = real.to(found.device)[:, None]
    found = torch.where(real.reshape(*real.shape, *(1,) * (found.ndim - 3)), found, nothing)
    missing = 0 if tokens.length is None else tokens.length - found.shape[2]
    return torch.nn.functional.pad(found, (*(0, 0) * (found.ndim - 3), 0, missing), value=nothing) if missing > 0 else found
