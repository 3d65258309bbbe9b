"""The fast path of ``nn.MultiheadAttention`` and ``nn.TransformerEncoder``: ``_native_multi_head_attention``.

``_transformer_encoder_layer_fwd`` calls it through the dispatcher, so one entry serves both. On dense inputs the kernel has the weights and
returns them per head on request, at no cost. On nested inputs (an encoder with padding) it cannot: there query and key are projected again
and the diagonal is computed from them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attviz.calls.call import AttentionCall
from attviz.calls.fused import FusedCall
from attviz.calls.softmax import SoftmaxCall
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator

_NAME = "aten::_native_multi_head_attention"
_DEFAULTS = {9: None, 10: True, 11: True, 12: None}  # mask, need_weights, average_attn_weights, mask_type
_NAMES = {9: "mask", 10: "need_weights", 11: "average_attn_weights", 12: "mask_type"}


def _complete(args: Arguments, kwargs: Keywords) -> list[Any]:
    rest = [kwargs.get(_NAMES[index], default) for index, default in _DEFAULTS.items() if index >= len(args)]
    return [*args, *rest]


def _ask_for_weights(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
    if args[0].is_nested:
        return args, kwargs
    full = _complete(args, kwargs)
    full[10], full[11] = True, False
    return tuple(full), {}


def _restore(args: Arguments, kwargs: Keywords, result: Any) -> Any:
    """The result the caller requested: no weights, or their mean over heads, computed as in the kernel."""
    if args[0].is_nested:
        return result
    need_weights, average = _complete(args, kwargs)[10:12]
    if not need_weights:
        return result[0], None
    return (result[0], result[1].sum(1).div_(args[4])) if average else result


def _read(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall:
    if not args[0].is_nested:
        return SoftmaxCall(_NAME, result[1])
    query, _, _, embed_dim, num_heads, weight, bias = args[:7]
    padded, seen = _padded(query)
    rows = torch.nn.functional.linear(padded, weight[: 2 * embed_dim], bias[: 2 * embed_dim])
    own, keys = rows.unflatten(-1, (2, num_heads, embed_dim // num_heads)).unbind(2)
    mask = torch.zeros_like(seen, dtype=own.dtype).masked_fill_(~seen, float("-inf"))[:, None, None]
    return FusedCall(_NAME, own.transpose(1, 2), keys.transpose(1, 2), scale=own.shape[-1] ** -0.5, bias=mask)


def _padded(nested: Tensor) -> tuple[Tensor, Tensor]:
    """A nested batch as a dense one, and a mask of its real tokens."""
    sizes = nested._nested_tensor_size()
    padded = nested.to_padded_tensor(0.0)
    lengths = sizes[:, 0].to(padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]


OPERATORS = (Operator(_NAME, _read, "fused", ("CPU", "NestedTensorCPU"), _ask_for_weights, _restore),)
