"""FlashAttention, dense and packed: torch's raw operators, those of the packages ``flash_attn`` and ``flash_attn_3``, and their functions.

Their tensors are ``[batch, length, heads, head_dim]``, packed ``[total, heads, head_dim]`` with the bounds of the texts in ``cu_seqlens``.
Causal masks and windows are aligned bottom right, so the own key of query ``i`` is ``kv_len - q_len + i``. Arguments are found by the
names in the operator's schema, because their positions change between versions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from attviz.calls.packed import PackedCall
from attviz.errors import CaptureError
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator, Reader
from attviz.kernels.qk import QkOptions

_NAMES = (
    "aten::_flash_attention_forward",
    "aten::_flash_attention_forward_no_dropout_inplace",
    "flash_attn::_flash_attn_forward",
    "flash_attn::_flash_attn_varlen_forward",
    "flash_attn_3::_flash_attn_forward",
    "flash_attn_3::fwd",  # what FlashAttention-3's own functions end in, and vLLM calls directly
    "xformers_flash::flash_fwd",
    "xformers_flash3::flash_fwd",
    "mslk_flash::flash_fwd",  # where xformers' kernels live since 2026
    "aten::_flash_attention_forward.quantized",
)
_SPELLED = {
    "query": ("query", "q"),
    "key": ("key", "k"),
    "scale": ("scale", "softmax_scale", "sm_scale"),
    "is_causal": ("is_causal", "causal"),
    "cu_seqlens_q": ("cu_seqlens_q", "cum_seq_q"),
    "cu_seqlens_k": ("cu_seqlens_k", "cum_seq_k"),
    "left": ("window_size_left", "window_left"),
    "right": ("window_size_right", "window_right"),
    "window": ("window_size",),
    "softcap": ("softcap", "logits_soft_cap"),
    "alibi_slopes": ("alibi_slopes",),
    "sinks": ("s_aux", "learnable_sink"),
}
_PAGED = (
    *("block_table", "block_tables", "page_table", "seqused_q", "seqused_k", "leftpad_k", "k_new", "cache_seqlens", "k_cache"),
    *("cache_leftpad", "kv_batch_idx"),
)
_SCALED = (
    *("q_descale", "k_descale", "descale_q", "descale_k", "qv", "q_v", "scale_q", "scale_k"),
    *("mSFQ", "mSFK", "sfq", "sfk"),  # block scales of FlashAttention-4
)
_SPARSE = ("full_block_cnt", "full_block_idx", "mask_block_cnt", "mask_block_idx", "block_sparse_tensors")  # of FlashAttention-4
_ROTATED = ("rotary_cos", "rotary_sin")
_FUNCTIONS = ("score_mod", "mask_mod")  # of FlashAttention-4


@cache
def _parameters(name: str) -> tuple[str, ...]:
    """Names of the operator's arguments, in order."""
    namespace, operator = name.split("::")
    operator, _, overload = operator.partition(".")
    schema = getattr(getattr(getattr(torch.ops, namespace), operator), overload or "default")._schema
    names = tuple(argument.name for argument in schema.arguments)
    return checked_parameters(name, names)


def checked_parameters(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names unchanged, if they include those that are needed.

    Raises:
        CaptureError: If one is missing.
    """
    for needed in ("query", "key", "is_causal"):
        if not set(_SPELLED[needed]) & set(names):
            raise CaptureError(
                f"{name}: its schema has no {' or '.join(_SPELLED[needed])} but {names}, so this version cannot be read. Use "
                'attn_implementation="sdpa", or register a reader of your own: attviz.register_operator.'
            )
    return names


def _bound(names: tuple[str, ...], args: Arguments, kwargs: Keywords) -> dict[str, Any]:
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    bound = {ours: next((given[theirs] for theirs in spelled if theirs in given), None) for ours, spelled in _SPELLED.items()}
    bound["paged"] = any(isinstance(given.get(theirs), Tensor) for theirs in _PAGED) or bool(given.get("attention_chunk"))
    bound["scaled"] = any(isinstance(given.get(theirs), Tensor) for theirs in _SCALED)
    bound["rotated"] = any(isinstance(given.get(theirs), Tensor) for theirs in _ROTATED)
    bound["sparse"] = any(given.get(theirs) is not None for theirs in _SPARSE)
    bound["functions"] = [theirs for theirs in _FUNCTIONS if callable(given.get(theirs))]
    if bound["window"] is not None:  # the functions have a pair where the operators have two numbers
        bound["left"], bound["right"] = bound["window"]
    return bound


def reader(name: str, parameters: Callable[[], tuple[str, ...]]) -> Reader:
    """The reader of an operator or function whose arguments have the names ``parameters()``."""

    def read(args: Arguments, kwargs: Keywords, result: Any) -> PackedCall | str:
        given = _bound(parameters(), args, kwargs)
        if given["paged"]:
            return f"{name} was given paged or shifted keys, so a query's own key cannot be located"
        if given["scaled"] or given["query"].dtype.itemsize == 1:  # without scales they count as 1
            return f"{name} was given scaled 8-bit or split queries and keys, which are not read; capture the model in bfloat16"
        if given["rotated"]:
            return f"{name} rotates queries and keys itself, so what it multiplies cannot be seen; rotate them before the call"
        if given["functions"]:
            functions = " and a ".join(given["functions"])
            return f"{name} was given a {functions}, which runs inside its kernel only; use flex_attention, which is read"
        if given["sparse"]:
            return f"{name} was given sparse blocks, which hide keys in its kernel only; use flex_attention, which is read"
        query, key = given["query"].detach(), given["key"].detach()
        packed = query.ndim == 3
        query, key = (tensor.transpose(0, 1)[None] if packed else tensor.transpose(1, 2) for tensor in (query, key))
        options: QkOptions = {
            "scale": query.shape[-1] ** -0.5 if given["scale"] is None else float(given["scale"]),
            "is_causal": bool(given["is_causal"]),
            "window_size": tuple(-1 if size is None else int(size) for size in (given["left"], given["right"])),  # type: ignore[typeddict-item]
            "softcap": float(given["softcap"] or 0.0),
            "alibi_slopes": given["alibi_slopes"],
            "sinks": None if given["sinks"] is None else given["sinks"].detach(),
        }
        if packed and given["cu_seqlens_q"] is not None:
            options["cu_seqlens_q"], options["cu_seqlens_k"] = given["cu_seqlens_q"], given["cu_seqlens_k"]
        return PackedCall(name, query, key, _logsumexp_of(result), options)

    return read


def _logsumexp_of(result: Any) -> Tensor | None:
    """The second of the returned values; None if it was not requested."""
    if isinstance(result, Tensor) or len(result) < 2 or not isinstance(result[1], Tensor):
        return None
    return result[1]


OPERATORS = tuple(Operator(name, reader(name, partial(_parameters, name)), "fused") for name in _NAMES)
"""The tap finds no kernel for operators that this process does not have, and leaves them out."""
