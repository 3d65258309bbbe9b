"""What following showed an attention to be: self, cross or neither; which key is a query's own; which axes are batch and heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from attviz.hooks.scope.follow.axes import (
    FEATURE,
    Axis,
    Symbol,
    crossed,
    in_slices,
    learned,
    of_input,
    of_parameters,
    of_texts,
    pieces_of,
    rank_of,
    roots_of,
    size_of,
    sources,
)
from attviz.hooks.scope.follow.layout import Layout, layout_of_axes, moved
from attviz.hooks.scope.follow.mode import Follow
from attviz.hooks.scope.follow.trace import Pair, Trace, is_product, one_for_all

Kind = Literal["self", "cross", "none", "changed", "unsettled"]
Pieces = tuple[tuple[Axis, int], ...]
Taken = frozenset[tuple[Axis, int]]
_IN_SLICES = (
    "it works through texts and heads in slices, one operator call each, so no call shows which of them it holds; run it without slices "
    "(diffusers: disable_attention_slicing)"
)
_SLOTS = "queries and keys are slots or channels that weights made of the tokens"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one attention of a module is.

    Attributes:
        kind: ``"self"``: query and key ``i`` are token ``i``; ``"cross"``: they are of different sequences; ``"none"``: no attention among
            tokens; ``"changed"``: its softmax is not the matrix in use; ``"unsettled"``: the evidence does not decide.
        why: What was seen, in words for the user.
        behind: Keys after the last query's own key (a null key, a learned bias); the others, before the first, are cache or memory.
        layout: Where batch and heads are; None if the operator defines it.
        single: It has no axis for heads: several attentions in one call of the module, with the same axes, are its heads.
        buffer: The number of keys does not show where the queries' own are: in a buffer of fixed length, or before other keys.
        before: Keys before the first query's own in the call that was followed.
        tokens: A number shared by attentions of one forward over the same tokens.
        apart: Unsettled, but both sides were followed to the inputs and are in different orders.
        alone: One query, taken from the tokens it attends to.
        several: Not the first single-head attention over the same tokens in one call of its module.
        one_token: One query and one key, which prove nothing.
        paired: Both depend on the same input.
        weighing: Its scores are a product of two tensors that depend on inputs, or its keys come from an input's axis; so it is no router.
        moved: The queries are the tokens of an input in a different order.
    """

    kind: Kind
    why: str
    behind: int = 0
    layout: Layout | None = None
    single: bool = False
    buffer: bool = False
    before: int = 0
    tokens: int = 0
    apart: bool = False
    alone: bool = False
    several: bool = False
    one_token: bool = False
    paired: bool = False
    weighing: bool = False
    moved: bool = False


def answer_fused(follow: Follow, query: Tensor, key: Tensor, one_input: bool) -> Answer:
    """What a fused operator's query and key are, of ``[..., tokens, head_dim]``.

    Args:
        follow: The followed forward.
        query: The operator's query.
        key: The operator's key.
        one_input: The module was given only one sequence.
    """
    one, two = follow.traces[query], follow.traces[key]
    if in_slices(one.axes[:-2]):
        return Answer("unsettled", _IN_SLICES, apart=True)
    summed = sources(one.axes[-1])
    other = crossed(one.axes[:-2], two.axes[:-2]) or one_for_all(one, two, query.ndim - 2)
    pair = Pair(one.streams, two.streams, other, one.buffered or two.buffered, summed, one.learned_from)
    answer = _compared(one.axes[-2], two.axes[-2], query.shape[-2], key.shape[-2], pair, one_input, one.taken)
    answer = _one_by_one(answer, one, two.axes[-2])
    if answer.kind != "self" or query.ndim < 3:
        return answer
    leading = tuple(follow.symbols.beside([a, b]) for a, b in zip(one.axes[:-2], two.axes[:-2], strict=False)) or one.axes[:-2]
    layout = layout_of_axes(leading, tuple(query.shape[:-2]), query.ndim - 2, query.ndim - 1, summed)
    # torch 2.14 puts an axis before unbatched queries
    single = (query.ndim < 4 or query.shape[0] == 1) and not any(head for axis in layout.axes for head, _ in axis)
    # of queries that no weight has made, nothing tells heads from texts: the operator's own order of axes holds
    own_order = layout.plain or (query.ndim == 4 and of_input(one.axes[-1]) and not any(sources(axis) & summed for axis in leading))
    return replace(answer, layout=None if own_order else layout, single=single, tokens=follow.symbols.number(one.axes[-2]))


def answer_softmax(follow: Follow, scores: Tensor, dim: int, one_input: bool) -> Answer:
    """What the softmax of these scores over ``dim`` is."""
    trace = follow.traces[scores]
    dim %= scores.ndim
    if scores.shape[dim] == 1:
        return _one_token(trace.pair)
    answer = _of_scores(follow, scores, dim, one_input)
    weighing = is_product(trace.pair) or (answer.kind != "none" and bool(roots_of(trace.axes[dim])))
    return replace(answer, weighing=weighing)


def _of_scores(follow: Follow, scores: Tensor, dim: int, one_input: bool) -> Answer:
    trace = follow.traces[scores]
    keys, size = trace.axes[dim], scores.shape[dim]
    found: Answer | None = None
    pair = trace.pair
    keys = keys if pair is None else pair.unmasked(keys, trace.axes)
    if is_product(pair) and in_slices(trace.axes[:-2]):
        return Answer("unsettled", _IN_SLICES, apart=True)
    one = dim - 1 if dim and scores.shape[dim - 1] == 1 else None  # where a single query stands
    for rows in reversed(range(scores.ndim)):
        if rows == dim or (scores.shape[rows] == 1 and rows != one):
            continue
        answer = _compared(trace.axes[rows], keys, scores.shape[rows], size, pair, one_input, trace.taken)
        answer = _one_by_one(answer, trace, keys)
        if answer.why is _SLOTS:
            return answer
        if answer.kind == "self" and scores.ndim == 2 and of_texts(keys):
            return Answer("none", "queries and keys are the texts of the batch, not tokens")
        if answer.kind == "self":
            places = [place for place in range(scores.ndim) if place not in (rows, dim)]
            leading, sizes = tuple(trace.axes[place] for place in places), tuple(scores.shape[place] for place in places)
            layout = layout_of_axes(leading, sizes, rows, dim, frozenset() if pair is None else pair.summed)
            single = not any(head for axis in layout.axes for head, _ in axis) and scores.ndim < 4
            return replace(answer, layout=layout, single=single, tokens=follow.symbols.number(trace.axes[rows]))
        found = found or (answer if answer.kind != "none" else None)
    if size > 1 and _no_tokens(keys, pair):
        return Answer("none", "its softmax runs over features, experts or learned slots, not over tokens")
    if found is not None:
        return found
    if learned(keys) and is_product(pair):
        return Answer("unsettled", "the keys are slots that tokens were written into, in a way that could not be followed")
    return Answer("none", "its softmax has no axis of queries that are the tokens it runs over")


def _one_token(pair: Pair | None) -> Answer:
    """One query and one key: from one input, or from an unknown one."""
    return Answer("unsettled", "one query and one key", one_token=True, paired=pair is not None and bool(pair.query & pair.key))


def _one_by_one(answer: Answer, query: Trace, keys: Axis) -> Answer:
    """A single query, taken from the tokens it attends to: pooled, or one step of a loop over all of them."""
    if answer.kind == "cross" and any(roots_of(axis) & roots_of(keys) for axis, _ in query.taken):
        return replace(answer, alone=True)
    return answer


def _compared(rows: Axis, keys: Axis, q_len: int, kv_len: int, streams: Pair | None, one_input: bool, taken: Taken) -> Answer:
    if kv_len == 1:
        return _one_token(streams) if q_len == 1 else Answer("cross", "all queries share one key")
    if rows == keys and rows:
        if rank_of(rows) == FEATURE and not any(symbol.kind == "stack" for symbol in rows):
            if streams is not None and _made_by_others(rows, streams.summed):
                return Answer("unsettled", _SLOTS)
            return Answer("none", "queries and keys are features, not tokens")
        went_apart = streams is not None and is_product(streams) and streams.query != streams.key
        if streams is not None and went_apart and not (one_input and kin(streams.query, streams.key)):
            return Answer("unsettled", "queries and keys are the same tokens of one input, but took different paths through the model")
        buffered = streams is not None and streams.buffered
        same = Answer("self", "queries and keys are the same tokens", buffer=buffered, moved=_reordered(rows))
        return _of_same_texts(same, streams)
    pieces = pieces_of(keys, kv_len)
    own = _own_piece(rows, q_len, pieces, streams, [index for axis, index in taken if axis == keys])
    if own is not None:
        return _of_same_texts(_among_others(pieces, own), streams)
    if q_len == 1 and kv_len > 1:
        if streams is not None and streams.key and not streams.query:
            return Answer("cross", "the query is learned, the keys are tokens")
        if len(pieces) == 1 and of_input(keys) and not any(symbol.kind == "buffer" for symbol in keys):
            return Answer("cross", "there is one query for all tokens (pooled, or that of one token) instead of one per token")
        if streams is not None and of_input(keys) and not any(root[0] in streams.query for root in roots_of(keys)):  # type: ignore[index]
            return Answer("cross", "queries and keys come from different inputs")
    if q_len > 1 and learned(rows) and of_input(keys):
        return Answer("cross", "the queries are learned or made of features, the keys are tokens")
    if of_input(rows) and kv_len > 1 and _no_tokens(keys, streams):
        return Answer("none", "the keys are projections or features, not tokens")
    if _of_other_inputs(rows, keys, streams):
        return Answer("cross", "queries and keys come from different inputs")
    if of_input(rows) and of_input(keys) and q_len != kv_len and _pooled(*_apart(rows, keys), q_len < kv_len, taken):
        return Answer("cross", f"the {'queries' if q_len < kv_len else 'keys'} are pooled: each stands for several tokens")
    if (of_input(rows) and of_input(keys)) or moved(rows) or moved(keys):
        return Answer(
            "unsettled",
            "the keys are the queries' tokens in a different order, or only some of them, so a query's own key is not at its own position",
            apart=True,
        )
    return Answer("unsettled", f"where {q_len} queries and {kv_len} keys come from could not be followed")


def _made_by_others(rows: Axis, summed: frozenset[Symbol]) -> bool:
    """Whether the features that a product sums over were made by other weights than what it compares: as with tokens, not with heads."""
    own = frozenset[Symbol]().union(*(sources(axis) for axis, _ in pieces_of(rows)))
    return bool(summed) and all(symbol.rank == FEATURE for symbol in summed) and not own & summed


def _of_other_inputs(rows: Axis, keys: Axis, pair: Pair | None) -> bool:
    """Whether tokens are compared with those of another input; a mask of another input may have named an axis of scores."""
    compared = [(rows, keys), (pair.rows, pair.keys)] if pair is not None and pair.rows and pair.keys else [(rows, keys)]
    return all(roots_of(one) and roots_of(two) and not roots_of(one) & roots_of(two) for one, two in compared)


def _no_tokens(keys: Axis, pair: Pair | None) -> bool:
    """Whether keys are features or parameters; slots that were kept or created in the forward only count if no input went into them."""
    return learned(keys) and (of_parameters(keys) or not is_product(pair))


def _own_piece(rows: Axis, q_len: int, pieces: Pieces, streams: Pair | None, taken: list[int]) -> int | None:
    """Which of the concatenated pieces of the keys are the queries' own tokens."""
    if rows:
        return next((place for place in reversed(range(len(pieces))) if pieces[place] == (rows, q_len)), None)
    if q_len > 1 or streams is None or len(pieces) < 2:
        return None
    # a single token has no axis: it was taken out of the keys, or is the only piece of one token that the query can be
    single = [place for place, (_, length) in enumerate(pieces) if length == 1]
    shown = [place for place in single if sum(length for _, length in pieces[:place]) in taken]
    single = shown or [place for place in single if _can_be(pieces[place][0], streams, alone=len(single) == 1)]
    return single[0] if len(single) == 1 else None


def _can_be(piece: Axis, streams: Pair, *, alone: bool) -> bool:
    """Whether a single token among the keys can be what asks: it depends on the same inputs, or was made of the same parameters."""
    if len(piece) != 1 or piece[0].kind != "one":
        return alone and of_input(piece)
    of, learned_from = piece[0].parts[:2]
    if streams.query:
        return bool(of) and kin(streams.query, of)  # type: ignore[arg-type]
    return bool(learned_from) and learned_from <= streams.learned_from  # type: ignore[operator]


def _among_others(pieces: Pieces, own: int) -> Answer:
    """Keys that contain the queries' own tokens and others."""
    before, after = (sum(length for _, length in part) for part in (pieces[:own], pieces[own + 1 :]))
    if any(symbol.kind == "buffer" for piece, _ in pieces for symbol in piece):
        return Answer("self", "the keys are the queries' own tokens, written into a buffer", after, buffer=True, before=before)
    extra = [f"{before} before"] * bool(before) + [f"{after} behind"] * bool(after)
    why = f"the keys are the queries' own tokens and others ({', '.join(extra)} them)"
    # how many tokens of another input, or of a cache, stand behind them is another number in every call
    varies = any(not learned(piece) or any(symbol.kept for symbol in piece) for piece, _ in pieces[own + 1 :])
    return Answer("self", why, after, buffer=varies, before=before)


def _apart(rows: Axis, keys: Axis) -> tuple[Axis, Axis]:
    """What queries and keys are beside the tokens that stand first in both (a class token, registers)."""
    left, right = pieces_of(rows, 0), pieces_of(keys, 0)
    shared = 0
    while shared < min(len(left), len(right)) - 1 and left[shared] == right[shared]:
        shared += 1
    if not shared or len(left) - shared > 1 or len(right) - shared > 1 or moved(left[shared][0]) or moved(right[shared][0]):
        return rows, keys
    return left[shared][0], right[shared][0]


def _pooled(rows: Axis, keys: Axis, fewer_queries: bool, taken: Taken) -> bool:
    """Whether each query, or each key, stands for several tokens: made by an operator, or by summing over one side of a split."""
    few, many = (rows, keys) if fewer_queries else (keys, rows)
    if any(symbol.kind == "by" and symbol not in many for symbol in few):
        return True
    of = sources(few)
    chosen = any(sources(axis) & of for axis, _ in taken)  # one of each group, not all of it
    return of <= sources(many) and all(symbol.kind == "sub" for symbol in few) and not chosen


def _reordered(axis: Axis) -> bool:
    """Whether these are all tokens of an input, in a different order."""
    return any(
        symbol.kind == "by" and symbol.parts[0] in ("flip", "roll", "pick", "placed") and size_of(symbol.parts[-1]) == symbol.size  # type: ignore[arg-type]
        for symbol in axis
    )


def _of_same_texts(answer: Answer, pair: Pair | None) -> Answer:
    """Self-attention, unless queries and keys are at the same positions of different texts."""
    if pair is None or not pair.crossed:
        return answer
    return Answer(
        "unsettled", "queries and keys come from different texts of the batch, or from the same texts in a different order", apart=True
    )


def kin(one: frozenset[int], other: frozenset[int]) -> bool:
    """Whether one side depends on everything the other does: a residual stream before and after a module."""
    return one <= other or other <= one
