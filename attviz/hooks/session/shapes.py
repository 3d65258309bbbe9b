"""The axes of a call that was not followed: batch and heads, as far as shapes, attributes and token ids tell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attviz.calls.call import AttentionCall
from attviz.calls.fused import FusedCall
from attviz.calls.softmax import SoftmaxCall
from attviz.hooks.scope.model_map import is_of_library
from attviz.hooks.scope.tokens import TokenContext
from attviz.names import number_of_heads

# Where scaled_dot_product_attention is given three dimensions, its kernels see ``[1, batch * num_heads, q_len, head_dim]``.
_AXIS_IN_FRONT = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 14)


def with_heads(call: FusedCall, context: TokenContext | None = None) -> FusedCall:
    """A fused call of ``[num_heads, q_len, head_dim]`` inputs with a batch axis added, or split off if the token ids show it."""
    if call.query.ndim != 3:
        return _split(call, context) if _unsplit(call) else call
    lse = None if call.logsumexp is None else call.logsumexp.reshape(1, *call.query.shape[:2])
    return call.replace(query=call.query[None], key=call.key[None], logsumexp=lse)  # type: ignore[no-any-return]


def _unsplit(call: FusedCall) -> bool:
    return _AXIS_IN_FRONT and call.query.ndim == 4 and call.query.shape[0] == 1 and call.query.shape[1] == call.key.shape[1] > 1


def _split(call: FusedCall, context: TokenContext | None) -> FusedCall:
    batch = 1 if context is None or context.ids is None else context.ids.shape[0]
    rows = call.query.shape[1]
    if batch == 1 or rows % batch or call.logsumexp is None:
        return call
    query, key, lse = (x.reshape(batch, rows // batch, *x.shape[2:]) for x in (call.query, call.key, call.logsumexp))
    bias = call.bias
    if bias is not None and bias.ndim == 4 and bias.shape[1] == rows:
        bias = bias.reshape(batch, rows // batch, *bias.shape[2:])
    return call.replace(query=query, key=key, logsumexp=lse, bias=bias)  # type: ignore[no-any-return]


def in_four_dimensions(call: SoftmaxCall, module: nn.Module | None, context: TokenContext | None, sinks: int) -> SoftmaxCall:
    """A softmax as ``[batch, num_heads, q_len, kv_len]``, with its columns that are not keys."""
    weights = _four_dimensions(call.weights, module, context)
    if weights is call.weights and not sinks:
        return call
    logits = None if call.logits is None else call.logits.reshape(weights.shape)
    return call.replace(weights=weights, logits=logits, sinks=sinks)  # type: ignore[no-any-return]


def _four_dimensions(weights: Tensor, module: nn.Module | None, context: TokenContext | None) -> Tensor:
    """``[batch * num_heads, q_len, kv_len]`` split by the module's number of heads, else by the batch of the token ids."""
    if weights.ndim == 4:
        return weights
    if weights.ndim > 4:
        return weights.flatten(0, -4)
    rows = weights.shape[0]
    heads = number_of_heads(module)
    if heads is None and context is not None and context.ids is not None and rows % context.ids.shape[0] == 0:
        heads = rows // context.ids.shape[0]
    if heads is None or rows % heads:
        heads = 1
    return weights.reshape(rows // heads, heads, *weights.shape[1:])


def folded(call: AttentionCall, module: nn.Module | None, context: TokenContext | None) -> bool:
    """Whether batch and heads share one axis in an attention of unknown code, and nothing shows how to split it."""
    shown = call.weights if isinstance(call, SoftmaxCall) else call.query if isinstance(call, FusedCall) else None
    if isinstance(call, FusedCall) and _unsplit(call) and module is not None and not is_of_library(module):
        rows = call.query.shape[1]
        return rows % len(context.ids) != 0 if context is not None and context.ids is not None else number_of_heads(module) != rows
    if module is None or shown is None or shown.ndim != 3 or shown.shape[0] == 1 or shown.shape[-2] == 1 or is_of_library(module):
        return False
    if isinstance(call, SoftmaxCall) and shown.shape[-1] != shown.shape[-2]:
        return False  # told by its lengths
    return number_of_heads(module) is None and (context is None or context.ids is None or shown.shape[0] % context.ids.shape[0] != 0)
