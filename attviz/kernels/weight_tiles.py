"""Logarithms of attention weights on the CPU, tile by tile: what makes a pass over all pairs cost no more than the fused attention.

``log A[i, j] = scale q_i . k_j + bias_ij - logsumexp_i``. A tile is filled with the last two, and the product is added to it in place: two
walks over a block that stays in the processor's cache. A causal text takes about half of that, because a tile ends with the last key that
one of its queries sees. Hidden pairs hold -1e30, whose exponential is 0 and which stays finite in products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attviz.kernels.self_score import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from attviz.kernels.blocked_softmax import ScoreRules

HIDDEN = -1e30  # a mask adds this or less; no true bias comes near
_ROWS = 64  # queries of a tile: with more, a causal text computes more that is hidden
_COLUMNS = 2048
_TILE = 1 << 17  # elements of a tile for each thread: 512 KiB of float32


def serves(query: Tensor, logsumexp: Tensor, rules: ScoreRules) -> bool:
    """Whether :func:`log_tiles` knows these rules, and no row is one that ``finfo.min`` hides as a whole, which has equal weights."""
    if query.device.type != "cpu" or rules.softcap or rules.left >= 0 or rules.alibi_slopes is not None or rules.key_mask is not None:
        return False
    return bool(((logsumexp > NEVER) | logsumexp.isinf()).all())


def log_tiles(query: Tensor, key: Tensor, logsumexp: Tensor, rules: ScoreRules) -> Iterator[tuple[slice, slice, slice, Tensor]]:
    """Heads, queries and keys of each tile, and the logarithms of its weights ``[heads, rows, columns]``.

    Args:
        query: ``[num_heads, q_len, head_dim]`` of one sequence.
        key: ``[num_kv_heads, kv_len, head_dim]``.
        logsumexp: ``[num_heads, q_len]``; a row with an infinite one has no weights.
        rules: How logits are computed and which are visible; :func:`serves` says which rules are known.

    Yields:
        A buffer that the caller may overwrite and the next tile reuses. Tiles in which every pair is hidden are left out.
    """
    (num_heads, q_len, head_dim), (num_kv_heads, kv_len, _) = query.shape, key.shape
    group, exact = num_heads // num_kv_heads, torch.promote_types(query.dtype, torch.float32)
    negative = torch.where(logsumexp.isinf(), HIDDEN, -logsumexp.to(exact))[..., None]
    each = max(1, group * min(_ROWS, q_len) * min(_COLUMNS, kv_len))
    together = max(1, min(num_kv_heads, _TILE * torch.get_num_threads() // each))
    buffer = query.new_empty(together * each, dtype=exact)
    for first in range(0, num_kv_heads, together):
        last = min(first + together, num_kv_heads)
        heads, keys = slice(first * group, last * group), key[first:last].to(exact)
        for start in range(0, q_len, _ROWS):
            rows = slice(start, min(start + _ROWS, q_len))
            size = rows.stop - start
            queries = query[heads, rows].to(exact).reshape(last - first, group * size, head_dim)
            end = kv_len if rules.right < 0 else min(kv_len, rows.stop + rules.alignment + rules.right)
            for low in range(0, end, _COLUMNS):
                columns = slice(low, min(low + _COLUMNS, end))
                grouped = buffer[: queries.shape[0] * queries.shape[1] * (columns.stop - low)].view(*queries.shape[:2], -1)
                tile = grouped.view(heads.stop - heads.start, size, -1)
                _fill(tile, negative[heads, rows], heads, rows, columns, rules)
                grouped.baddbmm_(queries, keys[:, columns].mT, alpha=rules.scale)
                yield heads, rows, columns, tile


def texts_of_a_tile(pairs: int) -> int:
    """How many texts with so many pairs of query and key, all heads together, fit into one tile."""
    return _TILE // max(1, pairs)


def queries_that_see(alive: Tensor, kv_len: int, rules: ScoreRules) -> Tensor:
    """How many of the queries that count can see each key, ``[num_heads, kv_len]`` in float32.

    Args:
        alive: True where a query counts, ``[num_heads, q_len]``.
        kv_len: Number of keys.
        rules: Which keys a query sees.
    """
    num_heads, q_len = alive.shape
    if rules.bias is None:
        before = torch.nn.functional.pad(alive.cumsum(1), (1, 0))  # of query i: those that count before it
        if rules.right < 0:
            return before[:, -1:].expand(-1, kv_len).float()
        first = (torch.arange(kv_len, device=alive.device) - rules.alignment - rules.right).clamp(0, q_len)
        return (before[:, -1:] - before[:, first]).float()
    found, weights = torch.zeros(num_heads, kv_len, device=alive.device), alive.float()
    for start in range(0, q_len, _ROWS):
        rows = slice(start, min(start + _ROWS, q_len))
        part = _part(rules.bias, slice(0, num_heads), rows, slice(0, kv_len))
        shown = (part if part.dtype is torch.bool else part > HIDDEN).expand(-1, rows.stop - start, kv_len)
        if rules.right >= 0:
            shown = shown & ~_beyond(rows, slice(0, kv_len), rules, alive.device)
        counted = shown.float()
        found += weights[:, rows] @ counted[0] if len(counted) == 1 else (weights[:, None, rows] @ counted)[:, 0]
    return found


def _fill(tile: Tensor, negative: Tensor, heads: slice, rows: slice, columns: slice, rules: ScoreRules) -> None:
    """What is added to the products: the bias less the log-sum-exp."""
    if rules.bias is None:
        tile.copy_(negative.expand_as(tile))
    else:
        part = _part(rules.bias, heads, rows, columns)
        added = torch.where(part, 0.0, HIDDEN) if part.dtype is torch.bool else part.to(tile.dtype).clamp_min(HIDDEN)
        torch.add(negative.expand_as(tile), added, out=tile)
    first = rows.start + rules.alignment + rules.right + 1  # the first key that one of the queries does not see
    if rules.right >= 0 and first < columns.stop:
        edge = slice(max(first, columns.start), columns.stop)
        tile[..., edge.start - columns.start :].masked_fill_(_beyond(rows, edge, rules, tile.device), HIDDEN)


def _beyond(rows: slice, columns: slice, rules: ScoreRules, device: torch.device) -> Tensor:
    """Which keys come after the last that each query sees."""
    last = torch.arange(rows.start, rows.stop, device=device) + (rules.alignment + rules.right)
    return torch.arange(columns.start, columns.stop, device=device) > last[:, None]


def _part(bias: Tensor, heads: slice, rows: slice, columns: slice) -> Tensor:
    """The entries of a bias ``[1 or num_heads, 1 or q_len, 1 or kv_len]`` for one tile."""
    of_heads = heads if bias.shape[0] > 1 else slice(None)
    return bias[of_heads, rows if bias.shape[1] > 1 else slice(None), columns if bias.shape[2] > 1 else slice(None)]
