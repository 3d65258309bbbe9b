"""The fused kernels behind ``scaled_dot_product_attention``. All of them return the log-sum-exp of each row.

Layouts, read off the schemas and kernels of torch 2.9 to 2.13: flash ``[batch, num_heads, q_len]``; memory-efficient
``[batch, num_heads, ceil32(q_len)]``, filled only when ``compute_log_sumexp`` asks for it; cuDNN ``[batch, num_heads, q_len, 1]``.
"""

from __future__ import annotations

from typing import Any

from attviz.hooks.operators.registry import Arguments, Keywords, Operator
from attviz.records import AttentionCall


def _scale(query: Any, kwargs: Keywords) -> float:
    scale = kwargs.get("scale")
    return query.shape[-1] ** -0.5 if scale is None else float(scale)


def _argument(args: Arguments, kwargs: Keywords, index: int, name: str, default: Any = None) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


def _read_flash_cpu(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall:
    query = args[0]
    return AttentionCall(
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        query,
        args[1],
        result[1],
        None,
        _scale(query, kwargs),
        kwargs.get("attn_mask"),
        bool(_argument(args, kwargs, 4, "is_causal", False)),
    )


def _read_flash(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall:
    query = args[0]
    causal = bool(_argument(args, kwargs, 4, "is_causal", False))
    return AttentionCall("aten::_scaled_dot_product_flash_attention", query, args[1], result[1], None, _scale(query, kwargs), None, causal)


def _read_efficient(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall:
    query = args[0]
    return AttentionCall(
        "aten::_scaled_dot_product_efficient_attention",
        query,
        args[1],
        result[1][..., : query.shape[2]],  # padded to a multiple of 32 with +inf
        None,
        _scale(query, kwargs),
        _argument(args, kwargs, 3, "attn_bias"),
        bool(_argument(args, kwargs, 6, "is_causal", False)),
    )


def _read_cudnn(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall:
    query, logsumexp = args[0], result[1]
    return AttentionCall(
        "aten::_scaled_dot_product_cudnn_attention",
        query,
        args[1],
        logsumexp.squeeze(-1) if logsumexp.ndim == 4 else logsumexp,
        None,
        _scale(query, kwargs),
        _argument(args, kwargs, 3, "attn_bias"),
        bool(_argument(args, kwargs, 6, "is_causal", False)),
    )


def _read_overrideable(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall:
    query = args[0]
    return AttentionCall(
        "aten::_scaled_dot_product_fused_attention_overrideable",
        query,
        args[1],
        result[1][..., : query.shape[2]] if result[1].ndim == 3 else result[1].squeeze(-1),
        None,
        _scale(query, kwargs),
        _argument(args, kwargs, 3, "attn_bias"),
        bool(_argument(args, kwargs, 5, "is_causal", False)),
    )


def _read_mps(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall:
    weights = result[1]  # this operator hands back the weights it made
    return AttentionCall("aten::_scaled_dot_product_attention_math_for_mps", weights=weights)


def _ask_for_logsumexp(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
    if len(args) > 4:
        return (*args[:4], True, *args[5:]), kwargs
    return args, {**kwargs, "compute_log_sumexp": True}


OPERATORS = (
    Operator("aten::_scaled_dot_product_flash_attention_for_cpu", _read_flash_cpu, "fused", ("CPU",)),
    Operator("aten::_scaled_dot_product_flash_attention", _read_flash, "fused", ("CUDA",)),
    Operator("aten::_scaled_dot_product_efficient_attention", _read_efficient, "fused", ("CUDA",), _ask_for_logsumexp),
    Operator("aten::_scaled_dot_product_cudnn_attention", _read_cudnn, "fused", ("CUDA",), _ask_for_logsumexp),
    Operator("aten::_scaled_dot_product_fused_attention_overrideable", _read_overrideable, "fused", ("XPU", "HPU", "PrivateUse1")),
    Operator("aten::_scaled_dot_product_attention_math_for_mps", _read_mps, "fused", ("MPS",)),
)
