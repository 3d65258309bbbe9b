"""Whether an attention call has a diagonal, and at which key slot its first query stands."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from attviz.calls.layouts import WeightLayout, layout_of, trimmed
from attviz.calls.trust import checked
from attviz.hooks.scope.model_map import Layout, is_other_softmax
from attviz.hooks.scope.names import NUM_HEADS
from attviz.hooks.scope.selection import Selection
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.tap.operators import Operator
from attviz.kernels import summary_from_qk
from attviz.records import AttentionCall

CROSS = "cross-attention: queries and keys come from different sequences, so there is no diagonal"


class Verdict(NamedTuple):
    """What became of an operator call.

    Attributes:
        call: The call with its ``kv_offset`` set and its weights as ``[batch, num_heads, q_len, kv_len]``; None where it has no diagonal.
        accounts: The call is an attention of its module, recorded or not: the module is no miss.
        reason: Why there is no diagonal, for ``cap.skipped``.
    """

    call: AttentionCall | None
    accounts: bool
    reason: str | None = None


_FOREIGN = Verdict(None, False)
_IS_CROSS = Verdict(None, True, CROSS)


class Judge:
    """Applies the rules to one call. Holds what it needs of the model, no state of a forward."""

    def __init__(self, layout: Layout, selection: Selection) -> None:
        self._expected = frozenset(layout.expected) | frozenset(selection.named)
        self._named = frozenset(selection.named)

    def __call__(
        self,
        operator: Operator,
        call: AttentionCall,
        owner: str | None,
        module: nn.Module | None,
        cross: bool,
        context: TokenContext | None,
    ) -> Verdict:
        """Judge one call of ``owner`` (None where the module is not known)."""
        if cross:
            return _IS_CROSS
        query, key = call.query, call.key
        if operator.kind == "softmax" or query is None or key is None:
            return self._softmax(call, owner, module, context)
        if call.diagonal is not None or call.weights_at is not None:
            return self._given(call, owner, context)
        shape = query.shape
        if len(shape) != 4 or context is None or context.length != shape[2]:  # grouped heads may be packed where queries should be
            call = _with_heads(unpacked(call, module, context))
            assert call.query is not None
            assert call.key is not None
            shape, key = call.query.shape, call.key
        call = checked(call)
        q_len, kv_len = shape[2], key.shape[2]
        if q_len == kv_len:
            return Verdict(call, True)
        offset = self._offset(q_len, kv_len, owner, context)
        if offset is None:
            return Verdict(None, True, _unequal(q_len, kv_len))
        return Verdict(_placed(call, offset), True)

    def _given(self, call: AttentionCall, owner: str | None, context: TokenContext | None) -> Verdict:
        """A call whose reader formed the diagonal itself, or does so as soon as the place of the first query is known."""
        assert call.query is not None
        assert call.key is not None
        q_len, kv_len = call.query.shape[2], call.key.shape[2]
        own_lengths = call.cu_seqlens is not None or q_len == kv_len
        offset = 0 if own_lengths else self._offset(q_len, kv_len, owner, context)
        if offset is None:
            return Verdict(None, True, _unequal(q_len, kv_len))
        if call.weights_at is not None:
            apart = None if context is None or context.positions is None else (call.weights_at(offset - 1) == 0).all(1)[:, 1:]
            return Verdict(AttentionCall(call.operator, diagonal=call.weights_at(offset), apart=apart), True)
        assert call.diagonal is not None
        diagonal, starts = call.diagonal, call.cu_seqlens
        if starts is not None and context is not None:
            diagonal = context.padded(diagonal, starts.numel() - 1)
        still_packed = diagonal is call.diagonal
        return Verdict(AttentionCall(call.operator, diagonal=diagonal, cu_seqlens=starts if still_packed else None), True)

    def _softmax(self, call: AttentionCall, owner: str | None, module: nn.Module | None, context: TokenContext | None) -> Verdict:
        if call.weights is None:
            return _FOREIGN
        layout = layout_of(module)
        if layout is not None and module is not None:
            return _laid_out(layout, call, module, context)
        call = unpacked(call, module, context)
        weights = call.weights
        assert weights is not None
        q_len, kv_len = weights.shape[-2], weights.shape[-1]
        expected = owner in self._expected
        if not expected and (q_len == 1 or (owner is not None and module is not None and is_other_softmax(owner, module))):
            return _FOREIGN
        if q_len == kv_len:
            offset: int | Tensor | None = 0
        elif kv_len == q_len + 1 and _has_sinks(module):
            offset = 0  # a learned sink stands behind the keys
        elif expected:
            offset = self._offset(q_len, kv_len - _has_sinks(module), owner, context)
        else:
            return _FOREIGN
        if offset is None:
            return Verdict(None, kv_len > 1, _unequal(q_len, kv_len)) if expected else _FOREIGN
        return Verdict(_placed(call._replace(weights=_four_dimensions(weights, module, context)), offset), True)

    def _offset(self, q_len: int, kv_len: int, owner: str | None, context: TokenContext | None) -> int | Tensor | None:
        """Key slot of query 0 where lengths differ: the cache says, or the user who named this module; otherwise unknown."""
        slot = None if context is None else context.slot(q_len, kv_len)
        if slot is None and owner in self._named and kv_len >= q_len:
            return kv_len - q_len
        return slot


def _laid_out(layout: WeightLayout, call: AttentionCall, module: nn.Module, context: TokenContext | None) -> Verdict:
    assert call.weights is not None
    found = layout.diagonal(module, call.weights)
    if found is None:
        return _FOREIGN
    if isinstance(found, str):
        return Verdict(None, True, found)
    return Verdict(call._replace(weights=None, diagonal=trimmed(found, None if context is None else context.length)), True)


def _placed(call: AttentionCall, offset: int | Tensor) -> AttentionCall:
    if isinstance(offset, int):
        if offset and call.is_causal and call.query is not None:  # torch aligns its causal mask top left: the own key is hidden
            return call._replace(kv_offset=offset, bias=call.query.new_full((1,), -torch.inf))
        return call._replace(kv_offset=offset) if offset else call
    return _gathered(call, offset)


def _gathered(call: AttentionCall, past: Tensor) -> AttentionCall:
    """Bring the own keys of the queries to slot 0 where only the device knows where they are (a static cache)."""
    if call.weights is not None:
        slots = past + _arange_like(call.weights.shape[-2], past)
        return call._replace(weights=call.weights.index_select(-1, slots), kv_offset=0)
    query, key, bias, logsumexp = call.query, call.key, call.bias, call.logsumexp
    assert query is not None
    assert key is not None
    if logsumexp is None:  # its kernel is not to be trusted, and without the other keys nobody could form it later
        rows = summary_from_qk(query, key, scale=call.scale, bias=bias, is_causal=call.is_causal, causal_alignment="top_left", kv_offset=0)
        logsumexp = rows.logsumexp
    slots = past + _arange_like(query.shape[2], past)
    if bias is not None and bias.shape[-1] > 1:
        bias = bias.index_select(-1, slots)
    return call._replace(key=key.index_select(2, slots), logsumexp=logsumexp, bias=bias, is_causal=False, kv_offset=0)


def _arange_like(length: int, past: Tensor) -> Tensor:
    return torch.arange(length, device=past.device)


def unpacked(call: AttentionCall, module: nn.Module | None, context: TokenContext | None) -> AttentionCall:
    """Undo the packing of grouped heads that transformers uses for a single query.

    There ``[batch, num_heads, 1, head_dim]`` arrives as ``[batch, num_kv_heads, groups, head_dim]``: what looks like queries are heads.
    """
    shaped = call.weights if call.query is None else call.query
    groups = None if module is None else module.__dict__.get("num_key_value_groups")  # getattr takes 10 us to say that a module has none
    if shaped is None or shaped.ndim != 4 or groups is None or groups < 2 or shaped.shape[2] != groups:
        return call
    heads = getattr(getattr(module, "config", None), "num_attention_heads", None)
    if (context is not None and context.length not in (None, 1)) or (isinstance(heads, int) and shaped.shape[1] * groups != heads):
        return call
    batch, rows = shaped.shape[0], shaped.shape[1] * groups
    bias = call.bias
    if bias is not None and bias.ndim == 4 and bias.shape[1:3] != (1, 1):
        bias = bias.expand(-1, *shaped.shape[1:3], -1).reshape(bias.shape[0], rows, 1, -1)
    if call.query is None:
        return call._replace(weights=shaped.reshape(batch, rows, 1, -1))
    lse = None if call.logsumexp is None else call.logsumexp[..., :groups].reshape(batch, rows, 1)
    return call._replace(query=shaped.reshape(batch, rows, 1, -1), logsumexp=lse, bias=bias)


def _with_heads(call: AttentionCall) -> AttentionCall:
    """A fused call of unbatched ``[num_heads, q_len, head_dim]`` inputs, with the batch put before it."""
    if call.query is None or call.query.ndim != 3:
        return call
    assert call.key is not None
    lse = None if call.logsumexp is None else call.logsumexp.reshape(1, *call.query.shape[:2])
    return call._replace(query=call.query[None], key=call.key[None], logsumexp=lse)


def _four_dimensions(weights: Tensor, module: nn.Module | None, context: TokenContext | None) -> Tensor:
    """``[batch * num_heads, q_len, kv_len]`` split by the module's number of heads, else by the batch of the token ids."""
    if weights.ndim == 4:
        return weights
    if weights.ndim > 4:
        return weights.flatten(0, -4)
    rows = weights.shape[0]
    heads = next((value for name in NUM_HEADS if isinstance(value := getattr(module, name, None), int) and value > 0), None)
    if heads is None and context is not None and context.ids is not None and rows % context.ids.shape[0] == 0:
        heads = rows // context.ids.shape[0]
    if heads is None or rows % heads:
        heads = 1
    return weights.reshape(rows // heads, heads, *weights.shape[1:])


def _has_sinks(module: nn.Module | None) -> bool:
    """Whether a learned logit of each head joins the denominator (GPT-OSS): one more column, behind the keys."""
    return module is not None and any("sink" in name for name in module._parameters)


def _unequal(q_len: int, kv_len: int) -> str:
    return (
        f"{q_len} queries meet {kv_len} keys and no cache explains it, so which key is a query's own is unknown "
        "(cross-attention?); if it is self-attention over a cache, name the module in layers="
    )
