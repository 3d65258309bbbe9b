"""Grouped heads that transformers packs into the axis of queries."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from attviz.calls.fused import FusedCall
from attviz.calls.softmax import SoftmaxCall
from attviz.hooks.scope.tokens import TokenContext
from attviz.names import QUERY_GROUPS, heads_of_config

_Shown = TypeVar("_Shown", FusedCall, SoftmaxCall)


def unpacked(call: _Shown, module: nn.Module | None, context: TokenContext | None) -> _Shown:
    """Undo the packing of grouped heads that transformers uses for a single query.

    There ``[batch, num_heads, 1, head_dim]`` arrives as ``[batch, num_kv_heads, groups, head_dim]``: what looks like queries is heads.
    """
    shaped = call.weights if isinstance(call, SoftmaxCall) else call.query
    groups = None if module is None else module.__dict__.get(QUERY_GROUPS)  # getattr takes 10 us to say that a module has none
    if shaped.ndim != 4 or groups is None or groups < 2 or shaped.shape[2] != groups:
        return call
    heads = heads_of_config(module)
    if (context is not None and context.length not in (None, 1)) or (isinstance(heads, int) and shaped.shape[1] * groups != heads):
        return call
    batch, rows = shaped.shape[0], shaped.shape[1] * groups
    if isinstance(call, SoftmaxCall):
        logits = None if call.logits is None else call.logits.reshape(batch, rows, 1, -1)
        return call.replace(weights=shaped.reshape(batch, rows, 1, -1), logits=logits)  # type: ignore[no-any-return]
    bias = call.bias
    if bias is not None and bias.ndim == 4 and bias.shape[1:3] != (1, 1):
        bias = bias.expand(-1, *shaped.shape[1:3], -1).reshape(bias.shape[0], rows, 1, -1)
    lse = None if call.logsumexp is None else call.logsumexp[..., :groups].reshape(batch, rows, 1)
    return call.replace(query=shaped.reshape(batch, rows, 1, -1), logsumexp=lse, bias=bias)  # type: ignore[no-any-return]
