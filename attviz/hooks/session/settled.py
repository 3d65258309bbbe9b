"""A call whose evidence is settled, converted to the form that is recorded: own key at ``kv_offset``, batch and heads first."""

from __future__ import annotations

from torch import Tensor

from attviz.calls.banded import DiagonalCall
from attviz.calls.call import AttentionCall
from attviz.calls.fused import FusedCall
from attviz.calls.scored import ScoredCall
from attviz.calls.softmax import SoftmaxCall
from attviz.hooks.scope.follow.answer import Answer
from attviz.hooks.scope.follow.layout import Layout, arranged
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.padding import last_visible
from attviz.kernels import diagonal_of_bias

_PLAIN = Layout((((False, None),), ((True, None),)), 2, 3)


def settle(call: FusedCall | ScoredCall | SoftmaxCall, answer: Answer, context: TokenContext | None, followed: bool) -> AttentionCall | str:
    """A self-attention with its own keys at ``kv_offset`` and its axes in order; a str says why this call cannot be placed."""
    if isinstance(call, SoftmaxCall):
        return _from_weights(call, answer, context, followed)
    q_len, kv_len = call.query.shape[-2], call.key.shape[-2]
    offset = _offset(answer, q_len, kv_len, context, followed, call.bias if isinstance(call, FusedCall) else None)
    if offset is None:
        return _lost(answer, q_len, kv_len)
    if answer.layout is None and call.query.ndim == 4:
        return _without_sinks(call if isinstance(offset, int) and not offset else call.replace(kv_offset=offset), answer)
    return _from_query(call, answer, offset)


def _offset(
    answer: Answer, q_len: int, kv_len: int, context: TokenContext | None, followed: bool, scores: Tensor | None = None
) -> int | Tensor | None:
    if answer.buffer and followed and answer.before >= 0:  # below: written behind a window that had rolled, so the cache says where
        return answer.before
    if answer.buffer or (context is not None and context.static):  # what was followed may have run without that cache
        return None if context is None else context.slot(q_len, kv_len)
    offset = kv_len - q_len - answer.behind
    if offset > 0 and offset != answer.before and not answer.behind and not followed and not (context is not None and context.cached):
        return last_visible(scores, q_len, kv_len) - q_len + 1  # a cache that nobody knows: its unused slots are hidden
    return offset if offset >= 0 else None


def _lost(answer: Answer, q_len: int, kv_len: int) -> str:
    what = "lie in a buffer of fixed length" if answer.buffer else f"are fewer than in the call that was followed ({answer.behind} behind)"
    return f"q_len={q_len} but kv_len={kv_len}: the keys {what}, so attviz cannot tell which key belongs to each query"


def _sinks(answer: Answer) -> int:
    """Number of columns after the own keys that are not keys but learned. Tokens of another input, and slots of a buffer, are keys."""
    return 0 if answer.buffer else answer.behind


def _without_sinks(call: FusedCall | ScoredCall, answer: Answer) -> AttentionCall:
    sinks = _sinks(answer)
    if not sinks:
        return call
    from attviz.calls.sunk import SunkCall  # rare

    return SunkCall(call, sinks)


def _from_weights(call: SoftmaxCall, answer: Answer, context: TokenContext | None, followed: bool) -> AttentionCall | str:
    weights, layout = call.weights, answer.layout
    if layout is None:
        if weights.ndim != 4:
            return f"its softmax has {weights.ndim} axes, which no followed call had"
        layout = _PLAIN
    if max(layout.rows, layout.keys) >= weights.ndim or len(layout.axes) != weights.ndim - 2:
        return f"its softmax has {weights.ndim} axes, in another order than when it was followed"
    q_len, kv_len = weights.shape[layout.rows], weights.shape[layout.keys]
    offset = _offset(answer, q_len, kv_len, context, followed, call.logits if layout.rows == 2 and layout.keys == 3 else None)
    if offset is None:
        return _lost(answer, q_len, kv_len)
    if layout.plain and layout.rows == 2 and layout.keys == 3:
        return call.replace(kv_offset=offset, sinks=_sinks(answer))  # type: ignore[no-any-return]
    leading = [place for place in range(weights.ndim) if place not in (layout.rows, layout.keys)]
    moved = weights.permute(*leading, layout.rows, layout.keys)
    whole = arranged(moved, layout, view=True)
    if whole is not None:  # nothing of the size of the matrix was copied
        logits = None if call.logits is None else arranged(call.logits.permute(*leading, layout.rows, layout.keys), layout, view=True)
        return call.replace(weights=whole, logits=logits, kv_offset=offset, sinks=_sinks(answer))  # type: ignore[no-any-return]
    if not isinstance(offset, int):
        return "its keys lie in a buffer whose length only the device knows"
    own = arranged(moved.diagonal(offset, -2, -1)[..., :q_len], layout)
    if own is None:
        return f"its softmax {tuple(weights.shape)} does not say how its axes are split into batch and heads"
    if call.logits is None:
        return DiagonalCall(call.operator, own)
    scores = call.logits.detach().permute(*leading, layout.rows, layout.keys).diagonal(offset, -2, -1)[..., :q_len]
    return DiagonalCall(call.operator, own, arranged(scores, layout))


def _from_query(call: FusedCall | ScoredCall, answer: Answer, offset: int | Tensor) -> AttentionCall | str:
    """A fused call whose leading axes are not batch and heads: computed at once, then rearranged."""
    query, key, layout = call.query, call.key, answer.layout
    if query.ndim == 3:
        lse = None if call.logsumexp is None else call.logsumexp.reshape(1, *query.shape[:2])
        call = call.replace(query=query[None], key=key[None], logsumexp=lse)
        layout = None if layout is None else Layout((((False, 1),), *layout.axes), layout.rows, layout.keys)
    call = call.replace(kv_offset=offset)
    if layout is None:
        return _without_sinks(call, answer)
    found = arranged(call.own(), layout)
    if found is None:
        return f"its query {tuple(query.shape)} does not say how its axes are split into batch and heads"
    added = _added(call, offset) if isinstance(offset, int) else None
    if added is None:
        return DiagonalCall(call.operator, found)
    return DiagonalCall(call.operator, found, arranged(added.expand(query.shape[:-1]), layout))


def _added(call: FusedCall | ScoredCall, offset: int) -> Tensor | None:
    """What the mask says of each query's own key."""
    if isinstance(call, ScoredCall):
        return call.seen()
    return None if call.bias is None else diagonal_of_bias(call.bias.detach(), call.query.shape[-2], offset)
