"""torch's kernels below ``scaled_dot_product_attention``, for libraries that call them directly: memory-efficient and cuDNN attention.

Taken from the schemas of torch 2.9 to 2.13 (``native_functions.yaml``). xformers' CUTLASS operator and torch's ``varlen_attn`` call them.
``_efficient_attention_forward`` takes ``[batch, length, heads, head_dim]`` and returns ``[batch, num_heads, ceil32(q_len)]``, of packed
texts ``[texts, num_heads, ceil32(longest)]``; ``_cudnn_attention_forward`` takes ``[batch, heads, length, head_dim]`` and returns
``[batch, num_heads, q_len, 1]``, of packed texts (``[total, heads, head_dim]``) ``[total, num_heads, 1]``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attviz.calls.call import AttentionCall
from attviz.calls.fused import FusedCall
from attviz.calls.packed import PackedCall
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator
from attviz.kernels.qk import QkOptions

_EFFICIENT = "aten::_efficient_attention_forward"
_CUDNN = "aten::_cudnn_attention_forward"
_ARGUMENTS = {
    _EFFICIENT: (
        *("query", "key", "value", "bias", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "dropout_p"),
        *("custom_mask_type", "compute_log_sumexp"),
    ),
    _CUDNN: (
        *("query", "key", "value", "attn_bias", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "compute_log_sumexp", "dropout_p", "is_causal"),
    ),
}
_NO_MASK, _CAUSAL_TOP_LEFT, _CAUSAL_BOTTOM_RIGHT = 0, 1, 2  # custom_mask_type of the CUTLASS kernel


def _given(name: str, args: Arguments, kwargs: Keywords) -> dict[str, Any]:
    return {**dict(zip(_ARGUMENTS[name], args, strict=False)), **kwargs}


def _scale(given: dict[str, Any]) -> float:
    scale = given.get("scale")
    return float(given["query"].shape[-1] ** -0.5 if scale is None else scale)


def _ask(args: Arguments, kwargs: Keywords, name: str) -> tuple[Arguments, Keywords]:
    place = _ARGUMENTS[name].index("compute_log_sumexp")
    if len(args) > place:
        return (*args[:place], True, *args[place + 1 :]), kwargs
    return args, {**kwargs, "compute_log_sumexp": True}


def _ask_efficient(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
    return _ask(args, kwargs, _EFFICIENT)


def _ask_cudnn(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
    return _ask(args, kwargs, _CUDNN)


def _read_efficient(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall | str:
    given = _given(_EFFICIENT, args, kwargs)
    mask = int(given["custom_mask_type"])
    query, key, starts = given["query"], given["key"], given.get("cu_seqlens_q")
    if isinstance(given.get("seqlen_k"), Tensor):
        return f"{_EFFICIENT} was given keys of which each text uses some, so a query's own key cannot be found"
    q_len, kv_len = query.shape[1], key.shape[1]
    if starts is not None:
        if mask == _CAUSAL_TOP_LEFT and given.get("cu_seqlens_k") is not starts:
            return f"{_EFFICIENT} aligns packed texts at their beginning, where a query's own key cannot be told"
        return _packed(_EFFICIENT, query[0], key[0], result[1], given, "cu_seqlens", mask != _NO_MASK)
    query, key = query.transpose(1, 2), key.transpose(1, 2)
    rows = result[1][..., :q_len]  # padded to a multiple of 32 with +inf
    if mask == _CAUSAL_BOTTOM_RIGHT and q_len != kv_len:
        return PackedCall(_EFFICIENT, query, key, rows, {"scale": _scale(given), "is_causal": True})
    return FusedCall(_EFFICIENT, query, key, rows, _scale(given), given.get("bias"), mask != _NO_MASK)


def _read_cudnn(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall:
    given = _given(_CUDNN, args, kwargs)
    query, causal = given["query"], bool(given.get("is_causal", False))
    if given.get("cum_seq_q") is not None:
        lse = result[1].squeeze(-1) if result[1].ndim == 3 and result[1].shape[-1] == 1 else result[1]
        return _packed(_CUDNN, query, given["key"], lse, given, "cum_seq", causal)
    rows = result[1].squeeze(-1) if result[1].ndim == 4 else result[1]
    return FusedCall(_CUDNN, query, given["key"], rows, _scale(given), given.get("attn_bias"), causal)


def _packed(name: str, query: Tensor, key: Tensor, lse: Tensor, given: dict[str, Any], bounds: str, causal: bool) -> PackedCall:
    """A call over packed texts, ``[total, heads, head_dim]``."""
    options: QkOptions = {"scale": _scale(given), "is_causal": causal}
    options["cu_seqlens_q"], options["cu_seqlens_k"] = given[f"{bounds}_q"], given.get(f"{bounds}_k")
    return PackedCall(name, query.transpose(0, 1)[None], key.transpose(0, 1)[None], lse, options)


OPERATORS = (
    Operator(_EFFICIENT, _read_efficient, "fused", ("CPU", "CUDA", "XPU"), _ask_efficient),
    Operator(_CUDNN, _read_cudnn, "fused", ("CPU", "CUDA"), _ask_cudnn),
)
