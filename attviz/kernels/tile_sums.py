"""What a pass sums over the tiles of one sequence on the CPU: columns, features, entropy and the largest logit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attviz.kernels.weight_tiles import HIDDEN, log_tiles, queries_that_see

if TYPE_CHECKING:
    from torch import Tensor

    from attviz.kernels.blocked_softmax import ScoreRules


def receive(query: Tensor, key: Tensor, logsumexp: Tensor, alive: Tensor, rules: ScoreRules, out: Tensor) -> None:
    """Column sums and counts of one sequence over the queries that are alive, ``[2, num_heads, kv_len]``."""
    for heads, _, columns, logs in log_tiles(query, key, torch.where(alive, logsumexp, torch.inf), rules):
        out[0, heads, columns] += logs.exp_().sum(1)
    out[1] = queries_that_see(alive, key.shape[1], rules)


def weigh(query: Tensor, key: Tensor, logsumexp: Tensor, features: Tensor | None, reach: int, rules: ScoreRules, out: Tensor) -> None:
    """Sums over the keys of one sequence, ``[num_heads, q_len, width]``; features are ``[num_heads or 1, kv_len, width]``.

    Without features, mass and sum of distances within reach.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    across = None if features is None else features.to(exact).mT.contiguous()
    places = torch.arange(max(query.shape[1], key.shape[1]), dtype=exact)
    for heads, rows, columns, logs in log_tiles(query, key, logsumexp, rules):
        weights = logs.exp_()
        # the wide matrix last: the other way round, a product with two features takes eight times as long
        if across is not None and len(across) == 1:
            out[heads, rows] += (across[0, :, columns] @ weights.flatten(0, 1).T).T.view(*weights.shape[:2], -1)
            continue
        if across is not None:
            out[heads, rows] += (across[heads, :, columns] @ weights.mT).mT
            continue
        distance = (places[columns] - (places[rows, None] + rules.kv_offset)).abs_()
        if reach >= 0:
            weights.mul_(distance <= reach)
        out[heads, rows, 0] += weights.sum(-1)
        out[heads, rows, 1] += weights.mul_(distance).sum(-1)


def facts(query: Tensor, key: Tensor, logsumexp: Tensor, rules: ScoreRules) -> Tensor:
    """Entropy and largest logit of the rows of one sequence."""
    exact = torch.promote_types(query.dtype, torch.float32)
    total, moment = logsumexp.new_zeros((2, *logsumexp.shape), dtype=exact)
    largest, spare = torch.full_like(total, HIDDEN), query.new_empty(0, dtype=exact)
    for heads, rows, _, logs in log_tiles(query, key, logsumexp, rules):
        here = largest[heads, rows]
        torch.maximum(here, logs.amax(-1), out=here)
        if spare.numel() < logs.numel():
            spare = torch.empty_like(logs).flatten()
        weights = torch.exp(logs, out=spare[: logs.numel()].view_as(logs))
        total[heads, rows] += weights.sum(-1)
        moment[heads, rows] += weights.mul_(logs).sum(-1)
    alive = total != 0  # NaN is alive: it must show
    entropy = torch.where(alive, total.log() - moment / total, 0.0)
    return torch.stack((entropy, torch.where(largest <= HIDDEN / 2, -torch.inf, largest + logsumexp))).float()
