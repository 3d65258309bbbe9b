"""The diagonal of a softmax matrix that the model itself made: a strided read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attviz.errors import ShapeError
from attviz.kernels.checks import check_floating
from attviz.kernels.summary import RowSummary, empty_outputs, head_aggregates
from attviz.kernels.twins import triton_serves, twin

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def diagonal_from_weights(
    weights: Float[Tensor, "batch num_heads q_len kv_len"], *, kv_offset: int | None = None
) -> Float[Tensor, "batch num_heads q_len"]:
    """Read ``weights[..., i, i + kv_offset]`` as float32, clamped to [0, 1].

    Args:
        weights: Softmax output, before dropout, any strides.
        kv_offset: Key slot of query 0; None means ``kv_len - q_len``. Pass 0 where an extra column follows the keys (learned sinks).

    Returns:
        Probabilities in [0, 1], float32, on the device of ``weights``, outside the autograd graph.

    Raises:
        ShapeError: If the weights are not four-dimensional, or a query has no key of its own.
        DtypeError: If the weights are not floating point.

    Example:
        >>> diagonal_from_weights(torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]]))
        tensor([[[1.0000, 0.7500]]])
    """
    return _run("diagonal_from_weights", weights, kv_offset, extras=False)[0]


def summary_from_weights(weights: Float[Tensor, "batch num_heads q_len kv_len"], *, kv_offset: int | None = None) -> RowSummary:
    """Diagonal, its five aggregates over the heads and the weight on key 0, in one launch on the GPU.

    Arguments and errors are those of :func:`diagonal_from_weights`.
    """
    diagonal, first, aggregates = _run("summary_from_weights", weights, kv_offset, extras=True)
    return RowSummary(diagonal, aggregates, first)


def _run(name: str, weights: Tensor, kv_offset: int | None, extras: bool) -> tuple[Tensor, Tensor, Tensor]:
    if weights.dim() != 4:
        raise ShapeError(f"{name}: weights must be [batch, num_heads, q_len, kv_len], got {tuple(weights.shape)}.")
    check_floating(name, weights=weights)
    q_len, kv_len = weights.shape[2:]
    offset = kv_len - q_len if kv_offset is None else kv_offset
    if offset < 0 or offset + q_len > kv_len:
        raise ShapeError(
            f"{name}: every query needs a key of its own, so 0 <= kv_offset <= kv_len - q_len; "
            f"got kv_offset={offset} with q_len={q_len} kv_len={kv_len}."
        )
    with torch.no_grad():
        out: tuple[Tensor, Tensor, Tensor] = _weights_op(weights, offset, extras)
    return out


def _in_torch(weights: Tensor, kv_offset: int, extras: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Diagonal, weight on key 0 and aggregates; the last two are empty unless ``extras``."""
    q_len = weights.shape[2]
    diagonal = weights.diagonal(kv_offset, dim1=-2, dim2=-1)[..., :q_len].float().clamp(0.0, 1.0).contiguous()
    if not extras or q_len == 0:
        return diagonal, *empty_outputs(weights, weights.shape[:3], extras)[1:]
    return diagonal, weights[..., 0].float().clamp(0.0, 1.0).contiguous(), head_aggregates(diagonal)


_weights_op = torch.library.custom_op(
    "attviz::diagonal_from_weights",
    mutates_args=(),
    schema="(Tensor weights, SymInt kv_offset, bool extras) -> (Tensor, Tensor, Tensor)",
)(_in_torch)


@_weights_op.register_fake
def _(weights: Tensor, kv_offset: int, extras: bool) -> tuple[Tensor, Tensor, Tensor]:
    return empty_outputs(weights, weights.shape[:3], extras)


@_weights_op.register_kernel("cuda")
def _(weights: Tensor, kv_offset: int, extras: bool) -> tuple[Tensor, Tensor, Tensor]:
    def launch() -> tuple[Tensor, Tensor, Tensor]:
        from attviz.kernels.triton.weights import launch

        return launch(weights, kv_offset, extras)

    kind, serves = (weights.dtype, weights.shape[1]), triton_serves(weights)
    return twin("diagonal_from_weights", kind, serves, launch, lambda: _in_torch(weights, kv_offset, extras))
