"""What a judged call is; and why it has no diagonal, or could not be told, as a user reads it."""

from __future__ import annotations

from typing import NamedTuple

from attviz.calls.call import AttentionCall
from attviz.hooks.scope.follow.answer import Answer

ONE_BY_ONE = (
    "it runs several single-head attentions over the same tokens, one after the other; they may be its heads or something else. Name it in "
    "layers= to record each of them separately, with one head"
)
ROWS = (
    "its first forward was not followed, and batch and heads share one axis, so attviz cannot tell how to split it; capture one forward "
    "before it is compiled"
)
_UNCOMPILED = 'run the captured forwards without the compiler: with torch.compiler.set_stance("force_eager"): model(...)'
COMPILED = (
    "inside compiled code it has more keys than queries, and no KV cache was recognised: the others may be a learned sink or null keys "
    "(then it has a diagonal), tokens of another input, or a cache; capture one forward before the model is compiled, or " + _UNCOMPILED
)
LOST = (
    "They have other keys than queries: a learned sink or null keys (then there is a diagonal), tokens of another input, or a cache, which "
    "compiled code does not tell apart; " + _UNCOMPILED
)
MOVED = "; they are in a different order than in the input, so the record has no token ids"
MANY_AXES = (
    "its softmax has {} axes, and what was followed does not show which of them are batch and heads, nor where a query's own key is; "
    "attviz.register_layout can say where it holds each token's weight on itself"
)
OTHER_DIMENSION = "its softmax runs over another dimension than that of the keys"
AHEAD = "its streams that predict later tokens attend to the tokens and to themselves: no query there is a token"
CROSS = "cross-attention: queries and keys come from different sequences, so there is no diagonal"


def two_readings(answer: Answer | None) -> str:
    """What was seen where it may be self-attention or something else, and what a user can do in either case."""
    if answer is not None and answer.apart:
        return answer.why
    return (
        f"{'' if answer is None else answer.why}; it may be self-attention (then name the module in layers=), or attend to "
        "another sequence or to features (then leave it out of layers=)"
    )


def unequal(q_len: int, kv_len: int) -> str:
    """Other keys than queries, and no cache to explain them."""
    return (
        f"q_len={q_len} but kv_len={kv_len} and no KV cache was recognised, so attviz cannot tell which key belongs to each query "
        "(cross-attention?); if it is self-attention over a cache, register the cache with attviz.register_cache, or name the module in "
        "layers="
    )


class Verdict(NamedTuple):
    """The result of judging an operator call.

    Attributes:
        call: The call with its ``kv_offset`` set and its weights as ``[batch, num_heads, q_len, kv_len]``; None if it has no diagonal.
        accounts: Whether the call is an attention of its module, recorded or not, so that the module does not count as missed.
        reason: Why there is no diagonal, for ``cap.skipped``.
        crossing: The call itself, if it is attention to another sequence.
        aside: What this operator does instead of attention; counts only if nothing else of the module was seen.
        untold: What was seen, if it is not enough to decide: reported loudly at the end.
        evidence: How it was settled.
        moved: Whether its rows are the tokens in a different order than in the input.
    """

    call: AttentionCall | None
    accounts: bool
    reason: str | None = None
    crossing: AttentionCall | None = None
    aside: str | None = None
    untold: str | None = None
    evidence: str = ""
    moved: bool = False


FOREIGN = Verdict(None, False)


def apart(answer: Answer | None, reason: str) -> bool:
    """Whether a softmax was shown to be self-attention, and the one before it in its module, with this reason, to be none of tokens."""
    return answer is not None and answer.kind == "self" and not reason.startswith(CROSS)


def lengths_differ(q_len: int, kv_len: int, call: AttentionCall, answer: Answer | None) -> Verdict:
    """Different lengths and no cache: cross-attention if it was not followed, undecided if it was followed without result."""
    if kv_len < q_len:
        return Verdict(None, kv_len > 1, f"q_len={q_len} but kv_len={kv_len}: fewer keys than queries, so not every query has a key", call)
    if answer is not None and kv_len > 1 and answer.kind == "unsettled":
        return Verdict(None, True, untold=answer.why if answer.apart else unequal(q_len, kv_len))
    return Verdict(None, kv_len > 1, unequal(q_len, kv_len), call)
