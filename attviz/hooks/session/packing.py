"""Which of several texts packed into one row each token belongs to.

Kernels for packed texts are told where each begins. Others are given a mask that keeps the texts apart, and only the ``position_ids``,
which start anew with each, tell where. Models differ in whether they build such a mask, so a restart counts only if the token after it
cannot see the one before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attviz.hooks.scope.tokens import TokenContext
from attviz.kernels import diagonal_of_bias
from attviz.records import AttentionCall


def document_ids(call: AttentionCall, context: TokenContext | None) -> Tensor | None:
    """Number of the text within its row, ``[batch, q_len]``, -1 behind the last; None where the call shows no packed texts."""
    if call.cu_seqlens is not None and call.diagonal is not None:
        return _numbers(call.cu_seqlens, call.diagonal.shape[2])
    if context is None or context.positions is None or context.mask is not None:
        return None
    apart = call.apart if call.apart is not None else _apart(call)
    positions = context.positions
    if apart is None or apart.shape[1] != positions.shape[1] - 1 or len(positions) not in (1, len(apart)):
        return None
    restarts = (positions.diff(dim=1) != 1) & apart
    return torch.nn.functional.pad(restarts.cumsum(1), (1, 0))


def _numbers(starts: Tensor, length: int) -> Tensor:
    places = torch.arange(length, device=starts.device, dtype=starts.dtype)
    numbers = torch.searchsorted(starts[1:].contiguous(), places, right=True)
    return torch.where(places < starts[-1], numbers, -1)[None]


def _apart(call: AttentionCall) -> Tensor | None:
    """True where query ``i + 1`` does not see key ``i``, ``[batch, q_len - 1]``; None where nothing hides it."""
    if call.weights is not None:
        q_len, kv_len = call.weights.shape[-2:]
        if call.kv_offset or kv_len not in (q_len, q_len + 1):  # one more: a sink, behind the keys
            return None
        hidden: Tensor = (call.weights.diagonal(-1, -2, -1) == 0).all(1)
        return hidden
    if call.query is None or call.key is None or call.bias is None or call.query.shape[2] != call.key.shape[2]:
        return None
    bias = call.bias if call.bias.ndim < 2 or call.bias.shape[-2] == 1 else call.bias[..., 1:, :]
    length = call.query.shape[2] - 1
    before = diagonal_of_bias(bias, length)
    hidden = before.logical_not() if before.dtype is torch.bool else before <= torch.finfo(before.dtype).min / 2
    if hidden.ndim == 3:
        hidden = hidden.all(1)
    return hidden.expand(call.query.shape[0], length)
