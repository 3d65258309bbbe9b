"""Online log-sum-exp over blocks of keys in plain torch: row statistics of attention from query and key, in O(q_len) memory.

The recurrence of arXiv:1805.02867, with one more running sum for the entropy. Every sum is shifted by the running row maximum: the
naive ``logsumexp - sum_j A_ij s_ij`` is off by 2e-2 at logits near 1000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_BLOCK_Q = 128
_TILE = 1 << 19  # logits of one tile, all heads together: 2 MiB of float32, and about four such temporaries
_FLOOR = -1e30  # shifted logits below this weigh exactly 0; clamping there keeps 0 * inf out of the entropy


class ScoreRules(NamedTuple):
    """How logits come from dot products and which keys a query sees, for one sequence.

    Query ``i`` is at key ``i + kv_offset`` and, for window and ALiBi, at position ``i + alignment``; it sees the keys ``j`` with
    ``-left <= j - (i + alignment) <= right``, a negative side being unlimited. A causal mask is ``right = 0``.
    """

    scale: float
    kv_offset: int
    alignment: int
    left: int = -1
    right: int = -1
    softcap: float = 0.0
    sinks: Tensor | None = None  # [num_heads]
    alibi_slopes: Tensor | None = None  # [num_heads]
    bias: Tensor | None = None  # [1 or num_heads, 1 or q_len, 1 or kv_len]
    key_mask: Tensor | None = None  # [kv_len]


class RowState(NamedTuple):
    """Running sums of a block of queries, each ``[num_heads, rows]``; updated in place."""

    top: Tensor  # running maximum
    total: Tensor  # sum of exp(s - top)
    moment: Tensor  # sum of (s - top) * exp(s - top)
    own: Tensor  # logit of the own key
    first: Tensor  # logit of key 0


def row_sums(query: Tensor, key: Tensor, rules: ScoreRules) -> Tensor:
    """Diagonal, log-sum-exp, row entropy, row maximum and first-key weight of one sequence, stacked.

    Args:
        query: ``[num_heads, q_len, head_dim]``.
        key: ``[num_kv_heads, kv_len, head_dim]``.
        rules: How logits are computed and which are visible.

    Returns:
        ``[5, num_heads, q_len]`` float32.
    """
    num_heads, q_len, _ = query.shape
    exact = torch.promote_types(query.dtype, torch.float32)
    state = _empty_state(num_heads, q_len, exact, query.device)
    for rows, columns, logits in tiles(query, key, rules):
        here = RowState(*(total[:, rows] for total in state))
        _accumulate(here, logits, rows.start + rules.kv_offset - columns.start, columns.start == 0)
    return _finish(state, rules.sinks).float()


def tiles(query: Tensor, key: Tensor, rules: ScoreRules) -> Iterator[tuple[slice, slice, Tensor]]:
    """Logits ``[num_heads, rows, columns]`` of one sequence by tiles, with their queries and keys; fully hidden tiles are left out."""
    num_heads, q_len, _ = query.shape
    kv_len = key.shape[1]
    exact = torch.promote_types(query.dtype, torch.float32)
    block_k = max(16, _TILE // max(1, num_heads * min(_BLOCK_Q, q_len)))
    for start in range(0, q_len, _BLOCK_Q):
        end = min(start + _BLOCK_Q, q_len)
        low = 0 if rules.left < 0 else max(0, start + rules.alignment - rules.left)
        high = kv_len if rules.right < 0 else min(kv_len, end + rules.alignment + rules.right)
        for first in range(low, high, block_k):
            last = min(first + block_k, high)
            logits = _logits(query[:, start:end], key[:, first:last], exact, rules)
            _hide(logits, start, first, rules)
            yield slice(start, end), slice(first, last), logits


def _empty_state(num_heads: int, rows: int, dtype: torch.dtype, device: torch.device) -> RowState:
    sums = torch.zeros(2, num_heads, rows, dtype=dtype, device=device)
    unseen = torch.full((3, num_heads, rows), float("-inf"), dtype=dtype, device=device)
    return RowState(unseen[0], sums[0], sums[1], unseen[1], unseen[2])


def _logits(query: Tensor, key: Tensor, dtype: torch.dtype, rules: ScoreRules) -> Tensor:
    """``cap(scale * q.k)`` for one tile, all query heads of a key head in one product."""
    num_heads, rows, head_dim = query.shape
    grouped = query.to(dtype).reshape(key.shape[0], num_heads // key.shape[0] * rows, head_dim)
    logits = torch.bmm(grouped, key.to(dtype).mT).view(num_heads, rows, key.shape[1]).mul_(rules.scale)
    if rules.softcap:
        logits.div_(rules.softcap).tanh_().mul_(rules.softcap)
    return logits


def _hide(logits: Tensor, start: int, first_key: int, rules: ScoreRules) -> None:
    """Add the biases of one tile and set what its queries do not see to -inf, in place."""
    rows, columns = logits.shape[1:]
    keys = torch.arange(first_key, first_key + columns, device=logits.device)
    queries = torch.arange(start, start + rows, device=logits.device)
    distance = keys - (queries[:, None] + rules.alignment)
    if rules.alibi_slopes is not None:
        logits.sub_(rules.alibi_slopes.to(logits.dtype)[:, None, None] * distance.abs())
    if rules.bias is not None:
        bias = rules.bias
        bias = bias if bias.shape[1] == 1 else bias[:, start : start + rows]
        bias = bias if bias.shape[2] == 1 else bias[:, :, first_key : first_key + columns]
        if bias.dtype is torch.bool:
            logits.masked_fill_(~bias, float("-inf"))
        else:
            logits.add_(bias)
    if rules.key_mask is not None:
        logits.masked_fill_(~rules.key_mask[first_key : first_key + columns], float("-inf"))
    if rules.right >= 0:
        logits.masked_fill_(distance > rules.right, float("-inf"))
    if rules.left >= 0:
        logits.masked_fill_(distance < -rules.left, float("-inf"))


def _accumulate(state: RowState, logits: Tensor, own_shift: int, holds_first: bool) -> None:
    """Fold one tile into the running sums; ``own_shift`` is the tile's column of the first query's own key."""
    top = torch.maximum(state.top, logits.amax(-1))
    anchor = top.masked_fill(top == float("-inf"), 0.0)  # nothing seen yet: any finite anchor serves
    shrink_by = (state.top - anchor).clamp_min_(_FLOOR)
    shrink = shrink_by.exp()
    shifted = (logits - anchor[..., None]).clamp_min_(_FLOOR)
    weights = shifted.exp()
    state.moment.add_(shrink_by * state.total).mul_(shrink).add_((weights * shifted).sum(-1))
    state.total.mul_(shrink).add_(weights.sum(-1))
    state.top.copy_(top)
    rows, columns = logits.shape[1:]
    low, high = max(0, -own_shift), min(rows, columns - own_shift)
    if low < high:
        state.own[:, low:high] = logits.diagonal(own_shift, dim1=1, dim2=2)
    if holds_first:
        state.first.copy_(logits[..., 0])


def _finish(state: RowState, sinks: Tensor | None) -> Tensor:
    """Stack diagonal, log-sum-exp, entropy, maximum and first-key weight; a row that saw nothing has weight 0 and entropy 0."""
    log_total = state.total.log()
    if sinks is not None:
        sink = sinks.to(state.top.dtype)[:, None]
        everything = torch.logaddexp(state.top + log_total, sink)
        mass = torch.exp(state.top + log_total - everything)
        shift = log_total + torch.nn.functional.softplus(sink - state.top - log_total)
    else:
        everything, mass, shift = state.top + log_total, torch.ones_like(log_total), log_total
    alive = state.total != 0  # NaN is alive: it must show
    entropy = mass * (shift - state.moment / state.total)
    share = mass / state.total  # not exp(own - logsumexp): next to finfo.min the logarithm of the total would vanish
    own = (torch.exp(state.own - state.top) * share).clamp_(max=1.0)  # NaN stays
    first = (torch.exp(state.first - state.top) * share).clamp_(max=1.0)
    dead = torch.zeros_like(own)
    return torch.stack(
        (torch.where(alive, own, dead), everything, torch.where(alive, entropy, dead), state.top, torch.where(alive, first, dead))
    )
