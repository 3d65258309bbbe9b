"""The input of a streaming metric: records of a capture, or values passed by hand, checked before any state changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attviz.errors import ArgumentError, DtypeError, MetricError, ShapeError
from attviz.metrics.vectors import check_diagonal
from attviz.readings import Reading
from attviz.records import DiagonalRecord

Source = DiagonalRecord | Sequence[DiagonalRecord] | Tensor


_HALF = 0.5 + 1e-6  # rounding of half types may lead past 1


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which values of a record a metric uses.

    Attributes:
        name: ``"diagonal"``, or that of a reading.
        reading: What the metric requests from the capture; None for the diagonal, or if someone else requests it.
        probability: Whether the values lie within [0, 1].
    """

    name: str = "diagonal"
    reading: Reading | None = None
    probability: bool = True

    @classmethod
    def of(cls, reading: str | Reading, caller: str) -> Chosen:
        """From the ``reading=`` of a metric: a reading, or the name of one in the capture's ``read=``."""
        if isinstance(reading, Reading):
            if reading.per != "query":
                raise ArgumentError(f"{caller}: reading={reading.name!r} has more than one number per token. Use one such as Offset(-1).")
            return cls(reading.name, reading, reading.unit == "probability")
        if not isinstance(reading, str):
            raise ArgumentError(f"{caller}: reading= must be an attviz.readings object or the name of one, got {reading!r}.")
        return cls() if reading == "diagonal" else cls(reading, None, False)


DIAGONAL = Chosen()


@dataclass(frozen=True, slots=True, eq=False)
class LayerValues:
    """One layer of one step, with the tokens that count.

    Attributes:
        index: Index of the layer in the order of execution.
        name: Qualified module name, where known.
        step: Number of the forward; None for values given by hand.
        values: As recorded; NaN at padding, and where a reading has no value.
        real: True where the token is not padding; None means every token.
        token_ids: Vocabulary ids, where known.
        chosen: What the values are.
    """

    index: int
    name: str | None
    step: int | None
    values: Float[Tensor, "batch num_heads q_len"]
    real: Bool[Tensor, "batch q_len"] | None
    token_ids: Int[Tensor, "batch q_len"] | None
    chosen: Chosen = DIAGONAL

    @property
    def num_heads(self) -> int:
        """Heads of this layer."""
        return self.values.shape[1]

    def valid(self, excluded: Int[Tensor, " ids"] | None = None) -> Bool[Tensor, "batch num_heads q_len"]:
        """Mark the values that enter a statistic: valid, at a real token, whose id is not in ``excluded``."""
        valid = _sound(self.values, self.chosen.probability)
        if self.real is not None:
            valid = valid & self.real.unsqueeze(1)
        if excluded is not None and self.token_ids is not None:
            valid = valid & (self.token_ids.unsqueeze(-1) != excluded).all(-1).unsqueeze(1)
        return valid

    def faults(self) -> Int[Tensor, " num_heads"]:
        """Count the invalid values at real tokens, per head."""
        return self.broken().sum((0, 2))

    def broken(self) -> Bool[Tensor, "batch num_heads q_len"]:
        """Mark the invalid values at real tokens; NaN is invalid in a diagonal and means "no such key" in a reading."""
        broken = ~_sound(self.values, self.chosen.probability)
        if self.chosen.name != "diagonal":
            broken = broken & ~self.values.isnan()
        return broken if self.real is None else broken & self.real.unsqueeze(1)


def _sound(values: Tensor, probability: bool) -> Tensor:
    if not probability:
        return values.abs() < torch.inf  # False for NaN; less than half the time of isfinite() on a CPU
    return (values - 0.5).abs() <= _HALF


def read_layers(
    source: Source,
    caller: str,
    chosen: Chosen = DIAGONAL,
    *,
    token_ids: Tensor | None = None,
    query_mask: Tensor | None = None,
    layer_index: int = 0,
) -> list[LayerValues]:
    """Convert any source to a list of layers; a record without the chosen reading is left out.

    Args:
        source: A record, several (``cap.records``), ``[num_layers, batch, num_heads, q_len]``, or one layer ``[batch, num_heads,
            q_len]``.
        caller: Name of the metric, for messages.
        chosen: Which values.
        token_ids: For values passed by hand: the token ids ``[batch, q_len]``.
        query_mask: For values passed by hand: True at real tokens. Without it, a token that is NaN in every head is padding.
        layer_index: For a single layer passed by hand: its index.
    """
    if isinstance(source, Tensor):
        check_diagonal(source, caller)
        layers = [source] if source.ndim == 3 else list(source.detach().unbind(0))
        first = layer_index if source.ndim == 3 else 0
        return [_by_hand(layer, caller, first + offset, token_ids, query_mask, chosen) for offset, layer in enumerate(layers)]
    if token_ids is not None or query_mask is not None:
        raise MetricError(f"{caller}: token_ids and query_mask go with a diagonal passed by hand; a DiagonalRecord has its own.")
    records = [source] if isinstance(source, DiagonalRecord) else list(source)
    for record in records:
        if not isinstance(record, DiagonalRecord):
            raise MetricError(
                f"{caller}: cannot be fed a {type(record).__name__}; pass a DiagonalRecord, several (cap.records), or a diagonal tensor."
            )
    found = [_from_record(record, caller, chosen) for record in records]
    return [layer for layer in found if layer is not None]


def _by_hand(layer: Tensor, caller: str, index: int, token_ids: Tensor | None, query_mask: Tensor | None, chosen: Chosen) -> LayerValues:
    _check_tokens(layer, caller, token_ids, query_mask)
    # on a device asking would wait: there they are counted as faults
    if chosen.probability and layer.device.type == "cpu" and bool(((layer < -1e-6) | (layer > 1 + 1e-6)).any()):
        low, high = layer.nan_to_num(0.5).aminmax()
        raise MetricError(
            f"{caller}: a diagonal holds probabilities, but this one ranges from {low:.4g} to {high:.4g}. "
            "Pass cap.diagonal, or apply the softmax first. The state is unchanged."
        )
    real = ~layer.isnan().all(1) if query_mask is None else query_mask
    return _where_float64_is(LayerValues(index, None, None, layer.detach(), real, token_ids, chosen))


def _from_record(record: DiagonalRecord, caller: str, chosen: Chosen) -> LayerValues | None:
    values = record.diagonal
    check_diagonal(values, caller)
    if values.ndim != 3:
        raise ShapeError(
            f"{caller}: the diagonal of a record must be [batch, num_heads, q_len]; layer {record.layer!r} has {tuple(values.shape)}."
        )
    _check_tokens(values, caller, record.token_ids, record.query_mask)
    if chosen.name != "diagonal":
        if chosen.name not in record.readings:
            return None
        values = per_token(record, chosen.name, caller)
    layer = LayerValues(record.layer_index, record.layer, record.step, values.detach(), record.query_mask, record.token_ids, chosen)
    return _where_float64_is(layer)


def per_token(record: DiagonalRecord, name: str, caller: str) -> Float[Tensor, "batch num_heads q_len"]:
    """A reading of a record, which must have one number per token; padded with NaN to the length of the diagonal."""
    found, wanted = record.readings[name], tuple(record.diagonal.shape)
    if found.ndim == 3 and found.shape[:2] == wanted[:2] and found.shape[2] < wanted[2]:
        found = torch.nn.functional.pad(found, (0, wanted[2] - found.shape[2]), value=torch.nan)
    if tuple(found.shape) != wanted:
        raise MetricError(f"{caller}: the reading {name!r} has shape {tuple(found.shape)}; it needs one number per token, {wanted}.")
    return found


def _where_float64_is(layer: LayerValues) -> LayerValues:
    """Move a layer from MPS, which has no float64, to the CPU; leave it where it is on every other device."""
    if layer.values.device.type != "mps":
        return layer
    values, real, token_ids = (None if x is None else x.cpu() for x in (layer.values, layer.real, layer.token_ids))
    assert values is not None
    return LayerValues(layer.index, layer.name, layer.step, values, real, token_ids, layer.chosen)


def _check_tokens(layer: Tensor, caller: str, token_ids: Tensor | None, query_mask: Tensor | None) -> None:
    expected = (layer.shape[0], layer.shape[2])
    for name, tensor in (("token_ids", token_ids), ("query_mask", query_mask)):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ShapeError(f"{caller}: {name} must be [batch, q_len] = {expected} for this diagonal, got {tuple(tensor.shape)}.")
    if token_ids is not None and (token_ids.is_floating_point() or token_ids.dtype == torch.bool):
        raise DtypeError(f"{caller}: token_ids must be integers, got {token_ids.dtype}.")
    if query_mask is not None and query_mask.dtype != torch.bool:
        raise DtypeError(f"{caller}: query_mask must be bool, True at real tokens; got {query_mask.dtype}. Call .bool() on it.")
