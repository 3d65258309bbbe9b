"""What an attention operator was asked to compute, recomputed in float64 from its own arguments.

There is one function per operator: it takes the arguments by the names of the operator's schema and returns the scores, mask and bias
included, so
that the attention weights are their softmax over the last axis. Nothing here is shared with the code that :func:`attviz.check` checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Arguments = Mapping[str, Any]
NOT_VISIBLE = float("-inf")
NEVER_A_SCORE = -5e3  # scores of models do not go below; masks that hide a key with a number do


def arguments_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operator under the names of its schema, with defaults for those left out."""
    schema = func._schema.arguments
    named = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    named.update({argument.name: value for argument, value in zip(schema, args, strict=False)})
    return {**named, **kwargs}


def _fused(given: Arguments) -> Tensor:
    """Scaled dot-product attention, as documented for ``F.scaled_dot_product_attention``."""
    query, key = given["query"].double(), given["key"].double()
    if key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scale = query.shape[-1] ** -0.5 if given.get("scale") is None else given["scale"]
    scores: Tensor = query @ key.mT * scale
    if given.get("is_causal"):
        rows, columns = scores.shape[-2:]
        later = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, NOT_VISIBLE)
    bias = given.get("attn_mask", given.get("attn_bias"))
    return scores if bias is None else _with_bias(scores, bias)


def _with_bias(scores: Tensor, bias: Tensor) -> Tensor:
    return scores.masked_fill(bias.logical_not(), NOT_VISIBLE) if bias.dtype is torch.bool else scores + bias.double()


def _softmax(given: Arguments) -> Tensor:
    return given["self"].double().movedim(given["dim"], -1)  # type: ignore[no-any-return]


def _masked_softmax(given: Arguments) -> Tensor:
    """Its mask is True where a key is hidden; type 0 is a mask of queries by keys, type 1 one of texts by keys."""
    scores: Tensor = given["self"].double()
    mask: Tensor = given["mask"].bool()
    if mask.ndim == 2 and scores.ndim == 4:
        mask = mask[:, None, None, :] if given.get("mask_type") == 1 else mask[None, None]
    return scores.masked_fill(mask, NOT_VISIBLE)


def _native_attention(given: Arguments) -> Tensor:
    """``nn.MultiheadAttention`` on its fast path: the projection of query and key happens inside the operator."""
    query, key, width = given["query"], given["key"], given["embed_dim"]
    weight, bias = given["qkv_weight"].double(), given["qkv_bias"].double()
    projected = [
        torch.nn.functional.linear(_padded(x).double(), weight[start : start + width], bias[start : start + width])
        for x, start in ((query, 0), (key, width))
    ]
    heads = given["num_head"]
    query_heads, key_heads = (x.unflatten(-1, (heads, width // heads)).transpose(1, 2) for x in projected)
    scores: Tensor = query_heads @ key_heads.mT * (width // heads) ** -0.5
    if query.is_nested:
        return scores.masked_fill(_padding(query)[:, None, None, :], NOT_VISIBLE)
    if (mask := given.get("mask")) is None:
        return scores
    hidden = mask if mask.dtype is torch.bool else mask < 0
    hidden = hidden[:, None, None, :] if given.get("mask_type") == 1 else hidden
    return scores.masked_fill(hidden, NOT_VISIBLE)


def _native_layer(given: Arguments) -> Tensor:
    """``nn.TransformerEncoderLayer`` on its fast path: there may be a norm before the attention."""
    source = given["src"]
    x = _padded(source).double()
    if given["norm_first"]:
        weight, bias = given["norm_weight_1"].double(), given["norm_bias_1"].double()
        x = torch.nn.functional.layer_norm(x, (given["embed_dim"],), weight, bias, given["eps"])
    inner = {**given, "query": x, "key": x, "num_head": given["num_heads"]}
    scores = _native_attention(inner)
    return scores.masked_fill(_padding(source)[:, None, None, :], NOT_VISIBLE) if source.is_nested else scores


def _padded(x: Tensor) -> Tensor:
    return torch.nested.to_padded_tensor(x, 0.0) if x.is_nested else x


def _padding(nested: Tensor) -> Tensor:
    """True after the end of each text of a nested tensor."""
    lengths = torch.tensor([len(text) for text in nested.unbind()], device=nested.device)
    return torch.arange(int(lengths.max()), device=nested.device)[None, :] >= lengths[:, None]


def _flex(given: Arguments) -> Tensor:
    """``flex_attention``: every score through ``score_mod``, every pair through ``mask_mod``."""
    query, key = given["query"].double(), given["key"].double()
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores: Tensor = query @ key.mT * given["scale"]
    places = [torch.arange(size, device=query.device) for size in scores.shape]
    if given["score_mod"] is not None:
        scores = _over_all(given["score_mod"], places, given["score_mod_other_buffers"], scores)
    visible = _over_all(given["block_mask"][-1], places, given["mask_mod_other_buffers"])
    return scores.masked_fill(visible.logical_not(), NOT_VISIBLE)


def _over_all(function: Callable[..., Tensor], places: list[Tensor], buffers: tuple[Any, ...], *first: Tensor) -> Tensor:
    """Apply ``function``, which is written for one (text, head, query, key), to all of them."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    fixed = (None,) * len(buffers)
    for axis in (3, 2, 1, 0):
        chosen = tuple(0 if other == axis else None for other in range(4))
        function = torch.vmap(function, in_dims=(0,) * len(first) + chosen + fixed)
    with TransformGetItemToIndex():  # lets ``table[q_idx]`` index with tensors; torch 2.9 has left its own by here
        return function(*first, *places, *buffers)


SCORES: dict[str, Callable[[Arguments], Tensor]] = {
    "aten::_softmax": _softmax,
    "aten::_log_softmax": _softmax,
    "aten::_safe_softmax": _softmax,
    "aten::_masked_softmax": _masked_softmax,
    "aten::_native_multi_head_attention": _native_attention,
    "aten::_transformer_encoder_layer_fwd": _native_layer,
    "aten::_scaled_dot_product_attention_math": _fused,
    "aten::_scaled_dot_product_attention_math_for_mps": _fused,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _fused,
    "aten::_scaled_dot_product_flash_attention": _fused,
    "aten::_scaled_dot_product_efficient_attention": _fused,
    "aten::_scaled_dot_product_cudnn_attention": _fused,
    "aten::_scaled_dot_product_fused_attention_overrideable": _fused,
    "flex_attention": _flex,
}
FLEX_ARGUMENTS = (
    "query", "key", "value", "score_mod", "block_mask", "scale", "kernel_options", "score_mod_other_buffers", "mask_mod_other_buffers",
)  # fmt: skip
