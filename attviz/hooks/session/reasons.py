"""Why a call has no diagonal, or could not be told, as a user reads it."""

from __future__ import annotations

from attviz.hooks.scope.follow.answer import Answer

ONE_BY_ONE = (
    "it runs several single-head attentions over the same tokens, one after the other; they may be its heads or something else. Name it in "
    "layers= to record each of them separately, with one head"
)
ROWS = (
    "its first forward was not followed, and batch and heads share one axis, so attviz cannot tell how to split it; capture one forward "
    "before it is compiled"
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
