"""Dense calls of the raw flash operators, in ``[batch, length, heads, head_dim]`` layout."""

from __future__ import annotations

from typing import Any

from attviz.hooks.operators.registry import Arguments, Keywords, Operator
from attviz.records import AttentionCall


def _read_flash_forward(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall | None:
    query, key, cu_seqlens = args[0], args[1], args[3] if len(args) > 3 else kwargs.get("cum_seq_q")
    if cu_seqlens is not None:
        return None  # packed documents: reported as a layer that was not seen
    scale = kwargs.get("scale")
    return AttentionCall(
        "aten::_flash_attention_forward",
        query.transpose(1, 2),
        key.transpose(1, 2),
        result[1],
        None,
        query.shape[-1] ** -0.5 if scale is None else float(scale),
        None,
        bool(args[8] if len(args) > 8 else kwargs.get("is_causal", False)),
    )


OPERATORS = (Operator("aten::_flash_attention_forward", _read_flash_forward, "fused", ("CUDA",)),)
