"""What a streaming metric is fed: records of a capture, or diagonals by hand, brought to one form and checked before any state moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attviz.errors import DtypeError, MetricError, ShapeError
from attviz.metrics.vectors import check_diagonal
from attviz.records import DiagonalRecord

Source = DiagonalRecord | Sequence[DiagonalRecord] | Tensor


_HALF = 0.5 + 1e-6  # rounding of half types may lead past 1


@dataclass(frozen=True, slots=True, eq=False)
class LayerDiagonal:
    """One layer of one step, with the tokens that count.

    Attributes:
        index: Place of the layer in the order of execution.
        name: Qualified module name, where known.
        step: Number of the forward; None for a diagonal given by hand.
        diagonal: As recorded; NaN at padding.
        real: True where the token is not padding; None means every token.
        token_ids: Vocabulary ids, where known.
    """

    index: int
    name: str | None
    step: int | None
    diagonal: Float[Tensor, "batch num_heads q_len"]
    real: Bool[Tensor, "batch q_len"] | None
    token_ids: Int[Tensor, "batch q_len"] | None

    @property
    def num_heads(self) -> int:
        """Heads of this layer."""
        return self.diagonal.shape[1]

    def valid(self, excluded: Int[Tensor, " ids"] | None = None) -> Bool[Tensor, "batch num_heads q_len"]:
        """Mark the values that enter a statistic: in [0, 1], of a real token, whose id is not among ``excluded``."""
        valid = _sound(self.diagonal)
        if self.real is not None:
            valid = valid & self.real.unsqueeze(1)
        if excluded is not None and self.token_ids is not None:
            valid = valid & (self.token_ids.unsqueeze(-1) != excluded).all(-1).unsqueeze(1)
        return valid

    def faults(self) -> Int[Tensor, " num_heads"]:
        """Count the values at real tokens that are NaN or no probability, per head."""
        return self.broken().sum((0, 2))

    def broken(self) -> Bool[Tensor, "batch num_heads q_len"]:
        """Mark the values at real tokens that are NaN or no probability."""
        broken = ~_sound(self.diagonal)
        return broken if self.real is None else broken & self.real.unsqueeze(1)


def _sound(values: Tensor) -> Tensor:
    return (values - 0.5).abs() <= _HALF  # False for NaN; one comparison on the hot path


def read_layers(
    source: Source, caller: str, *, token_ids: Tensor | None = None, query_mask: Tensor | None = None, layer_index: int = 0
) -> list[LayerDiagonal]:
    """Bring any source to a list of layers.

    Args:
        source: A record, several (``cap.records``), ``[num_layers, batch, num_heads, q_len]``, or one layer ``[batch, num_heads,
            q_len]``.
        caller: Name of the metric, for messages.
        token_ids: With a diagonal by hand: its vocabulary ids ``[batch, q_len]``.
        query_mask: With a diagonal by hand: True at real tokens. Without it, a token that is NaN in every head is padding.
        layer_index: With one layer by hand: which one it is.
    """
    if isinstance(source, Tensor):
        check_diagonal(source, caller)
        layers = [source] if source.ndim == 3 else list(source.detach().unbind(0))
        first = layer_index if source.ndim == 3 else 0
        return [_by_hand(layer, caller, first + offset, token_ids, query_mask) for offset, layer in enumerate(layers)]
    if token_ids is not None or query_mask is not None:
        raise MetricError(f"{caller}: token_ids and query_mask go with a diagonal by hand; a DiagonalRecord carries its own.")
    records = [source] if isinstance(source, DiagonalRecord) else list(source)
    for record in records:
        if not isinstance(record, DiagonalRecord):
            raise MetricError(
                f"{caller}: fed with {type(record).__name__}; it takes a DiagonalRecord, several (cap.records), or a diagonal tensor."
            )
    return [_from_record(record, caller) for record in records]


def _by_hand(layer: Tensor, caller: str, index: int, token_ids: Tensor | None, query_mask: Tensor | None) -> LayerDiagonal:
    _check_tokens(layer, caller, token_ids, query_mask)
    if layer.device.type == "cpu" and bool(((layer < -1e-6) | (layer > 1 + 1e-6)).any()):  # elsewhere asking would wait: counted as faults
        low, high = layer.nan_to_num(0.5).aminmax()
        raise MetricError(
            f"{caller}: a diagonal holds probabilities, and this one reaches from {low:.4g} to {high:.4g}. "
            "Give cap.diagonal, or apply the softmax first. The state is unchanged."
        )
    real = ~layer.isnan().all(1) if query_mask is None else query_mask
    return _where_float64_is(LayerDiagonal(index, None, None, layer.detach(), real, token_ids))


def _from_record(record: DiagonalRecord, caller: str) -> LayerDiagonal:
    check_diagonal(record.diagonal, caller)
    if record.diagonal.ndim != 3:
        raise ShapeError(
            f"{caller}: the diagonal of a record is [batch, num_heads, q_len]; layer {record.layer!r} has {tuple(record.diagonal.shape)}."
        )
    _check_tokens(record.diagonal, caller, record.token_ids, record.query_mask)
    return _where_float64_is(
        LayerDiagonal(record.layer_index, record.layer, record.step, record.diagonal.detach(), record.query_mask, record.token_ids)
    )


def _where_float64_is(layer: LayerDiagonal) -> LayerDiagonal:
    """Bring a layer to the CPU from MPS, which has no float64; leave it where it is on every other device."""
    if layer.diagonal.device.type != "mps":
        return layer
    diagonal, real, token_ids = (None if x is None else x.cpu() for x in (layer.diagonal, layer.real, layer.token_ids))
    assert diagonal is not None
    return LayerDiagonal(layer.index, layer.name, layer.step, diagonal, real, token_ids)


def _check_tokens(layer: Tensor, caller: str, token_ids: Tensor | None, query_mask: Tensor | None) -> None:
    expected = (layer.shape[0], layer.shape[2])
    for name, tensor in (("token_ids", token_ids), ("query_mask", query_mask)):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ShapeError(f"{caller}: {name} is [batch, q_len] = {expected} beside this diagonal, got {tuple(tensor.shape)}.")
    if token_ids is not None and (token_ids.is_floating_point() or token_ids.dtype == torch.bool):
        raise DtypeError(f"{caller}: token_ids are integers, got {token_ids.dtype}.")
    if query_mask is not None and query_mask.dtype != torch.bool:
        raise DtypeError(f"{caller}: query_mask is bool, True at real tokens; got {query_mask.dtype}. Call .bool() on it.")
