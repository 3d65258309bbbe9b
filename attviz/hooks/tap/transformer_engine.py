"""TransformerEngine's fused attention, which calls cuDNN below PyTorch's dispatcher: its Python function ``fused_attn_fwd`` is watched.

``DotProductAttention`` calls it, or flash-attn (whose operators the tap sees), or a softmax of its own. Written against
TransformerEngine fecb10b (``transformer_engine/pytorch/cpp_extensions/fused_attn.py``), read and not run. Arguments are found by name.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attviz.calls.fused import FusedCall
from attviz.calls.packed import PackedCall
from attviz.hooks.tap.functions import Function, watched
from attviz.hooks.tap.hub import Place
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator, Reader
from attviz.kernels.qk import QkOptions

NAME = "transformer_engine::fused_attn_fwd"
_HOMES = (
    "transformer_engine.pytorch.attention.dot_product_attention.backends",
    "transformer_engine.pytorch.attention.dot_product_attention.context_parallel",
    "transformer_engine.pytorch.attention",  # before 2.2
)
_NO_SWITCH = "set NVTE_FUSED_ATTN=0 to make TransformerEngine use flash-attn, which is read"


def transformer_engine_places() -> Iterator[Place]:
    """Where TransformerEngine holds its function, if it is loaded; it is never imported for this."""
    for home in _HOMES:
        function = vars(sys.modules[home]).get("fused_attn_fwd") if home in sys.modules else None
        if inspect.isfunction(function):
            yield Place(sys.modules[home], "fused_attn_fwd", _watched)


@lru_cache(maxsize=4)
def _watched(function: Function) -> Function:
    return watched(Operator(NAME, _reader(tuple(inspect.signature(function).parameters)), "fused", ()), function)


def _reader(names: tuple[str, ...]) -> Reader:
    def read(args: Arguments, kwargs: Keywords, result: Any) -> FusedCall | PackedCall | str:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if reason := _refused(given):
            return f"{NAME} was given {reason}; {_NO_SWITCH}"
        query, key = given["q"].detach(), given["k"].detach()
        scale = given.get("attn_scale")
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        format_ = given.get("qkv_layout", "").partition("_")[0].translate(str.maketrans("", "", "23"))
        mask, (left, right) = given.get("attn_mask_type", "padding"), given.get("window_size") or (-1, -1)
        causal = "causal" in mask
        rules: QkOptions = {"scale": scale, "is_causal": causal, "window_size": (int(left), int(right))}
        lse = _statistics(result)
        if format_ == "thd":
            rules["cu_seqlens_q"], rules["cu_seqlens_k"] = given["cu_seqlens_q"], given["cu_seqlens_kv"]
            return PackedCall(NAME, query.transpose(0, 1)[None], key.transpose(0, 1)[None], lse, rules)
        order = (1, 2, 0, 3) if format_.startswith("sb") else (0, 2, 1, 3)
        query, key = query.permute(order), key.permute(order)
        bias = given.get("attn_bias") if given.get("attn_bias_type", "no_bias") != "no_bias" else None
        if "padding" in mask:
            seen = _seen(given["cu_seqlens_kv"], key)
            bias = seen if bias is None else bias.masked_fill(~seen, -torch.inf)
        at_the_end = query.shape[2] != key.shape[2] and ("bottom_right" in mask or bool(given.get("bottom_right_diagonal")))
        windowed = int(left) >= 0 or int(right) > 0 or (int(right) == 0 and not causal)
        if not windowed and not (causal and at_the_end):
            return FusedCall(NAME, query, key, lse, scale, bias, causal)
        if bias is not None or not (at_the_end or query.shape[2] == key.shape[2]):
            return f"{NAME} was given a window together with padding, a bias or a cache, which is not read; {_NO_SWITCH}"
        return PackedCall(NAME, query, key, lse, rules)

    return read


def _refused(given: dict[str, Any]) -> str:
    """What cannot be read in a call; empty if everything can."""
    if type(given["q"]) is not Tensor and not isinstance(given["q"], torch.nn.Parameter):
        return "8-bit or otherwise quantized queries and keys, which are not read"
    if given.get("page_table_k") is not None:
        return "paged keys, in which a query's own key cannot be found"
    if given.get("softmax_type", "vanilla") != "vanilla":
        return "a softmax with an offset, which is not read"
    if given.get("attn_bias_type", "no_bias") not in ("no_bias", "post_scale_bias"):
        return f"a bias of the type {given['attn_bias_type']}, which is not read"
    if given.get("cu_seqlens_q_padded") is not None and given["cu_seqlens_q_padded"] is not given.get("cu_seqlens_q"):
        return "packed texts with gaps between them, which are not read"
    if given.get("attn_mask_type") == "arbitrary":
        return "a mask of its own, which is not read"
    return ""


def _statistics(result: Any) -> Tensor | None:
    """The log-sum-exp, first of what is kept for the backward: ``[batch, num_heads, q_len, 1]``, packed ``[total, num_heads, 1]``."""
    kept = result[1] if isinstance(result, (tuple, list)) and len(result) > 1 else None
    first = kept[0] if isinstance(kept, (tuple, list)) and kept else None
    if not isinstance(first, Tensor) or first.dtype is not torch.float32 or first.shape[-1:] != (1,):
        return None
    return first.squeeze(-1)


def _seen(bounds: Tensor, key: Tensor) -> Tensor:
    """True at the keys that a text has, ``[batch, 1, 1, kv_len]``."""
    return (torch.arange(key.shape[2], device=key.device) < bounds.diff()[:, None])[:, None, None]
