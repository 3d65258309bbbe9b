"""Which of several texts packed into one row each token belongs to.

Kernels for packed texts are given the start of each text. Others get a mask that keeps the texts apart, and only the ``position_ids``,
which restart with each text, show where. Not all models build such a mask, so a restart counts only if the token after it cannot see the
one before it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from attviz.calls.call import AttentionCall
from attviz.calls.padded import PaddedCall
from attviz.hooks.scope.tokens import TokenContext

_known = WeakTensorKeyDictionary()  # bounds of packed texts -> (version and length, numbers of the texts)


def document_ids(call: AttentionCall, context: TokenContext | None) -> Tensor | None:
    """Number of the text within its row, ``[batch, q_len]``, -1 after the last; None if the call has no packed texts."""
    if call.cu_seqlens is not None:
        return None if isinstance(call, PaddedCall) else _numbers(call.cu_seqlens, call.shape[2])
    if context is None or context.positions is None or context.mask is not None:
        return None
    apart = call.hides_previous()
    positions = context.positions
    if apart is None or apart.shape[1] != positions.shape[1] - 1 or len(positions) not in (1, len(apart)):
        return None
    restarts = (positions.diff(dim=1) != 1) & apart
    return torch.nn.functional.pad(restarts.cumsum(1), (1, 0))


def _numbers(starts: Tensor, length: int) -> Tensor:
    """Numbers of the texts; the layers of a forward share their bounds, and so the numbers."""
    if starts.is_inference():  # has no version: nobody could tell when it was refilled
        return _number(starts, length)
    known = _known.get(starts)
    if known is None or known[0] != (starts._version, length):
        known = _known[starts] = ((starts._version, length), _number(starts, length))
    numbers: Tensor = known[1]
    return numbers


def _number(starts: Tensor, length: int) -> Tensor:
    positions = torch.arange(length, device=starts.device, dtype=starts.dtype)
    numbers = torch.searchsorted(starts[1:].contiguous(), positions, right=True)
    return torch.where(positions < starts[-1], numbers, -1)[None]
