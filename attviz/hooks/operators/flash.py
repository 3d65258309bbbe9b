"""FlashAttention, dense and packed: torch's raw operators and those of the packages ``flash_attn`` and ``flash_attn_3``.

Their tensors are ``[batch, length, heads, head_dim]``, packed ``[total, heads, head_dim]`` with the bounds of the texts in ``cu_seqlens``.
Causal masks and windows are aligned bottom right, so a query's own key is the last but as many as queries follow. Arguments are found by
the names in the operator's schema, because their places change between versions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from attviz.errors import CaptureError
from attviz.hooks.operators.registry import Arguments, Keywords, Operator
from attviz.hooks.trust import settled
from attviz.kernels import diagonal_from_qk, rows_of_logsumexp, self_scores, weights_from_scores
from attviz.kernels.qk import QkOptions
from attviz.records import AttentionCall

_NAMES = (
    "aten::_flash_attention_forward",
    "aten::_flash_attention_forward_no_dropout_inplace",
    "flash_attn::_flash_attn_forward",
    "flash_attn::_flash_attn_varlen_forward",
    "flash_attn_3::_flash_attn_forward",
)
_SPELLED = {
    "query": ("query", "q"),
    "key": ("key", "k"),
    "scale": ("scale", "softmax_scale"),
    "is_causal": ("is_causal", "causal"),
    "cu_seqlens_q": ("cu_seqlens_q", "cum_seq_q"),
    "cu_seqlens_k": ("cu_seqlens_k", "cum_seq_k"),
    "left": ("window_size_left",),
    "right": ("window_size_right",),
    "softcap": ("softcap",),
    "alibi_slopes": ("alibi_slopes",),
}
_PAGED = ("block_table", "page_table", "seqused_k", "leftpad_k", "k_new")


@cache
def _parameters(name: str) -> tuple[str, ...]:
    """Names of the operator's arguments, in order, checked for those without which nothing can be read."""
    namespace, operator = name.split("::")
    names = tuple(argument.name for argument in getattr(getattr(torch.ops, namespace), operator).default._schema.arguments)
    for needed in ("query", "key", "is_causal"):
        if not set(_SPELLED[needed]) & set(names):
            raise CaptureError(
                f"{name}: its schema has no {' or '.join(_SPELLED[needed])} but {names}, so this version cannot be read. Use "
                'attn_implementation="sdpa", or register a reader of your own: attviz.hooks.operators.register.'
            )
    return names


def _bound(name: str, args: Arguments, kwargs: Keywords) -> dict[str, Any]:
    given = {**dict(zip(_parameters(name), args, strict=False)), **kwargs}
    bound = {ours: next((given[theirs] for theirs in spelled if theirs in given), None) for ours, spelled in _SPELLED.items()}
    bound["paged"] = any(isinstance(given.get(theirs), Tensor) for theirs in _PAGED) or bool(given.get("attention_chunk"))
    return bound


def _reader(name: str) -> Any:
    def read(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall | str:
        given = _bound(name, args, kwargs)
        if given["paged"]:
            return f"{name} was given paged or shifted keys, in which a query's own key cannot be found"
        packed = given["query"].ndim == 3
        query, key = (tensor.transpose(0, 1)[None] if packed else tensor.transpose(1, 2) for tensor in (given["query"], given["key"]))
        options: QkOptions = {
            "scale": query.shape[-1] ** -0.5 if given["scale"] is None else float(given["scale"]),
            "is_causal": bool(given["is_causal"]),
            "window_size": tuple(-1 if size is None else int(size) for size in (given["left"], given["right"])),  # type: ignore[typeddict-item]
            "softcap": float(given["softcap"] or 0.0),
            "alibi_slopes": given["alibi_slopes"],
        }
        if packed:
            options["cu_seqlens_q"], options["cu_seqlens_k"] = given["cu_seqlens_q"], given["cu_seqlens_k"]
        if not packed and key.shape[2] < query.shape[2]:
            return AttentionCall(name, query, key)  # cross-attention, which the judge will say
        logsumexp = result[1] if isinstance(result, (tuple, list)) else result
        diagonal = settled(name, query, lambda: _own(query, key, logsumexp, options), lambda: diagonal_from_qk(query, key, **options))
        return AttentionCall(name, query, key, diagonal=diagonal, cu_seqlens=given["cu_seqlens_q"] if packed else None)

    return read


def _own(query: Tensor, key: Tensor, logsumexp: Tensor, options: QkOptions) -> Tensor:
    """The diagonal from the kernel's own log-sum-exp, which knows of every mask; a bias is 0 at a distance of 0."""
    starts, ends = options.get("cu_seqlens_q"), options.get("cu_seqlens_k")
    batch, num_heads, q_len = query.shape[:3]
    kv_len = key.shape[2]
    offset = kv_len - q_len
    if starts is not None:
        places = torch.arange(q_len, device=query.device)
        text = torch.searchsorted(starts[1:].contiguous(), places.to(starts.dtype), right=True).clamp(max=starts.numel() - 2)
        ends = starts if ends is None else ends
        key = key.index_select(2, (places - starts[text + 1] + ends[text + 1]).clamp(0, kv_len - 1))
        offset = 0
        if logsumexp.ndim == 3 and logsumexp.shape[0] == starts.numel() - 1:  # one padded row of each text, as until flash-attn 2.6
            logsumexp = logsumexp[text, :, places - starts[text]].T[None]
    rows = rows_of_logsumexp(logsumexp, batch, num_heads, q_len)
    softcap = options.get("softcap", 0.0)
    scale = options.get("scale")
    assert scale is not None
    return weights_from_scores(self_scores(query, key, offset), rows, scale, kv_len=kv_len, softcap=softcap)


OPERATORS = tuple(Operator(name, _reader(name), "fused") for name in _NAMES)
"""Of operators that this process does not have, the tap finds no kernel and leaves them out."""
