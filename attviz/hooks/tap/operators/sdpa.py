"""The fused kernels behind ``scaled_dot_product_attention``. All of them return the log-sum-exp of each row.

Layouts, taken from the schemas and kernels of torch 2.9 to 2.13: flash ``[batch, num_heads, q_len]``; memory-efficient
``[batch, num_heads, ceil32(q_len)]``, filled only if ``compute_log_sumexp`` is set; cuDNN ``[batch, num_heads, q_len, 1]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attviz.calls.fused import FusedCall
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator, Preparer, Reader

_Rows = Callable[[Any, int], Any]  # (log-sum-exp as the kernel returns it, q_len) -> [batch, num_heads, q_len]


def _scale(query: Any, kwargs: Keywords) -> float:
    scale = kwargs.get("scale")
    return query.shape[-1] ** -0.5 if scale is None else float(scale)


def _argument(args: Arguments, kwargs: Keywords, index: int, name: str, default: Any = None) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


def _read_flash_cpu(args: Arguments, kwargs: Keywords, result: Any) -> FusedCall:
    query, scale = args[0], kwargs.get("scale")
    return FusedCall(
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        query,
        args[1],
        result[1],
        query.shape[-1] ** -0.5 if scale is None else float(scale),
        kwargs.get("attn_mask"),
        bool(args[4] if len(args) > 4 else kwargs.get("is_causal", False)),
    )


def _reader(name: str, causal_at: int, bias_at: int | None, rows: _Rows) -> Reader:
    """Reader of an operator that begins with query, key and value and returns its output and log-sum-exp first.

    Args:
        name: The dispatcher's name of the operator.
        causal_at: Position of ``is_causal``.
        bias_at: Position of ``attn_bias``; None if the operator takes none.
        rows: Takes the log-sum-exp and the number of queries; returns ``[batch, num_heads, q_len]``.
    """

    def read(args: Arguments, kwargs: Keywords, result: Any) -> FusedCall:
        query = args[0]
        bias = None if bias_at is None else _argument(args, kwargs, bias_at, "attn_bias")
        causal = bool(_argument(args, kwargs, causal_at, "is_causal", False))
        return FusedCall(name, query, args[1], rows(result[1], query.shape[2]), _scale(query, kwargs), bias, causal)

    return read


def _as_it_is(logsumexp: Any, q_len: int) -> Any:
    return logsumexp


def _without_padding(logsumexp: Any, q_len: int) -> Any:
    return logsumexp[..., :q_len]  # padded to a multiple of 32 with +inf


def _without_last(logsumexp: Any, q_len: int) -> Any:
    return logsumexp.squeeze(-1) if logsumexp.ndim == 4 else logsumexp


def _by_dimensions(logsumexp: Any, q_len: int) -> Any:
    return logsumexp[..., :q_len] if logsumexp.ndim == 3 else logsumexp.squeeze(-1)


def _read_mps(args: Arguments, kwargs: Keywords, result: Any) -> FusedCall:
    """From query and key: its second result holds the weights only on the math path; on the fused paths it has no meaning."""
    name, bias = "aten::_scaled_dot_product_attention_math_for_mps", _argument(args, kwargs, 3, "attn_mask")
    return FusedCall(name, args[0], args[1], None, _scale(args[0], kwargs), bias, bool(_argument(args, kwargs, 5, "is_causal", False)))


def _eight_bits(args: Arguments, kwargs: Keywords, result: Any) -> str:
    return "its queries and keys are 8-bit numbers with scales of their own, which are not read; capture the model in bfloat16"


def _ask_for_logsumexp(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
    if len(args) > 4:
        return (*args[:4], True, *args[5:]), kwargs
    return args, {**kwargs, "compute_log_sumexp": True}


def _entry(
    short: str, keys: tuple[str, ...], causal_at: int, bias_at: int | None, rows: _Rows, prepare: Preparer | None = None
) -> Operator:
    name = f"aten::_scaled_dot_product_{short}"
    return Operator(name, _reader(name, causal_at, bias_at, rows), "fused", keys, prepare)


OPERATORS = (
    Operator("aten::_scaled_dot_product_flash_attention_for_cpu", _read_flash_cpu, "fused", ("CPU",)),
    _entry("flash_attention", ("CUDA", "XPU"), 4, None, _as_it_is),
    _entry("efficient_attention", ("CUDA", "XPU"), 6, 3, _without_padding, _ask_for_logsumexp),
    _entry("cudnn_attention", ("CUDA",), 6, 3, _without_last, _ask_for_logsumexp),
    Operator("aten::_scaled_dot_product_flash_attention.quantized", _eight_bits, "fused", ("CUDA",)),
    _entry("fused_attention_overrideable", ("XPU", "HPU", "PrivateUse1"), 5, 3, _by_dimensions),
    Operator("aten::_scaled_dot_product_attention_math_for_mps", _read_mps, "fused", ("MPS",)),
)
