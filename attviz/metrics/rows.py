"""What one attention call says about its rows: entropy, largest logit, weight on the first token. Read while the call is alive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attviz.errors import MetricError
from attviz.kernels import self_scores, summary_from_qk
from attviz.metrics.packed import text_bounds
from attviz.records import AttentionCall

_HIDDEN = -1e30  # a mask adds this or less; no true bias comes near


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """One number per row of the attention matrix, none of them needing the matrix.

    Attributes:
        entropy: ``-sum_j A_ij log A_ij`` in nats (arXiv:2303.06296).
        max_logit: ``max_j s_ij``; None where the call holds weights only, which do not tell.
        first_token: Weight on the first real key; of packed texts, on the first of the query's own.
        choice: True where the row can see more than one key; a row without a choice has entropy 0 by construction.
    """

    entropy: Float[Tensor, "batch num_heads q_len"]
    max_logit: Float[Tensor, "batch num_heads q_len"] | None
    first_token: Float[Tensor, "batch num_heads q_len"]
    choice: Bool[Tensor, "#batch 1 q_len"]


@torch.no_grad()
def read_rows(
    call: AttentionCall,
    query_mask: Bool[Tensor, "batch q_len"] | None = None,
    document_ids: Int[Tensor, "batch q_len"] | None = None,
) -> Rows:
    """Read the rows of a call, in O(q_len) memory where it has query and key.

    Args:
        call: Alive: inside the operator, or made by hand.
        query_mask: True at real tokens: under left padding it says which key is the first.
        document_ids: Of texts packed into one row, the number of each query's text: it says which key is the first of each.

    Raises:
        MetricError: If the call has neither query and key nor weights.
    """
    if call.query is not None and call.key is not None:
        rows = summary_from_qk(
            call.query,
            call.key,
            scale=call.scale,
            is_causal=call.is_causal,
            causal_alignment="top_left",
            bias=call.bias,
            kv_offset=call.kv_offset,
        )
        assert rows.row_entropy is not None
        assert rows.logsumexp is not None
        assert rows.first_token is not None
        first = rows.first_token
        if document_ids is not None:
            first = _weight_on_own_start(text_bounds(document_ids)[0], call, call.query, call.key, rows.logsumexp)
        elif query_mask is not None and call.kv_offset == 0:
            first = _weight_on(query_mask.int().argmax(1), call, call.query, call.key, rows.logsumexp)
        return Rows(rows.row_entropy, rows.row_max_logit, first, _choice(call, call.query, call.key.shape[2]))
    if call.weights is not None:
        weights = call.weights.float()
        place = torch.zeros(len(weights), 1, dtype=torch.long, device=weights.device)
        if document_ids is not None:
            place = text_bounds(document_ids)[0]
        elif query_mask is not None and call.kv_offset == 0:
            place = query_mask.int().argmax(1)[:, None]
        first = weights.gather(-1, place[:, None, :, None].expand(*weights.shape[:3], 1)).squeeze(-1)
        choice = ((weights > 0).sum(-1) > 1).any(1, keepdim=True)  # the mask is gone, but what any head looks at can be seen
        return Rows(torch.special.entr(weights).sum(-1), None, first, choice)
    raise MetricError(f"AttentionHealth: the call of {call.operator} holds neither query and key nor weights.")


def _weight_on(place: Tensor, call: AttentionCall, query: Tensor, key: Tensor, logsumexp: Tensor) -> Tensor:
    """Weight of every query on one key of each text, ``exp(s_ij - lse_i)``."""
    batch, num_heads, q_len, head_dim = query.shape
    chosen = key.gather(2, place[:, None, None, None].expand(batch, key.shape[1], 1, head_dim)).float()
    grouped = query.float().reshape(batch, key.shape[1], -1, q_len, head_dim)  # query heads that share a key head
    score = call.scale * (grouped @ chosen.unsqueeze(2).mT).reshape(batch, num_heads, q_len)
    if call.bias is not None:
        bias = call.bias[(None,) * (4 - call.bias.dim())]
        bias = bias.expand(batch, bias.shape[1], bias.shape[2], key.shape[2])
        added = bias.gather(3, place[:, None, None, None].expand(*bias.shape[:3], 1)).squeeze(3)
        score = score.masked_fill(~added, -torch.inf) if added.dtype == torch.bool else score + added.float()
    if call.is_causal:
        score = score.masked_fill(torch.arange(q_len, device=score.device) < place[:, None, None], -torch.inf)
    return (score - logsumexp).exp().clamp(0, 1)


def _weight_on_own_start(place: Tensor, call: AttentionCall, query: Tensor, key: Tensor, logsumexp: Tensor) -> Tensor:
    """Weight of each query on a key of its own, ``exp(s_ij - lse_i)``; ``place`` is ``[batch, q_len]`` and never behind the query."""
    batch, _, q_len, head_dim = query.shape
    chosen = key.gather(2, place[:, None, :, None].expand(batch, key.shape[1], q_len, head_dim))
    score = call.scale * self_scores(query, chosen)
    if call.bias is not None:
        bias = call.bias[(None,) * (4 - call.bias.dim())]
        bias = bias.expand(batch, bias.shape[1], q_len, key.shape[2])
        added = bias.gather(3, place[:, None, :, None].expand(*bias.shape[:3], 1)).squeeze(3)
        score = score.masked_fill(~added, -torch.inf) if added.dtype == torch.bool else score + added.float()
    return (score - logsumexp).exp().clamp(0, 1)


def _choice(call: AttentionCall, query: Tensor, kv_len: int) -> Tensor:
    own = torch.arange(query.shape[2], device=query.device)
    by_rule = own + call.kv_offset > 0 if call.is_causal else torch.full_like(own, kv_len > 1, dtype=torch.bool)
    if call.bias is None:
        return by_rule[None, None]
    bias = call.bias[(None,) * (4 - call.bias.dim())][:, :1]  # heads share what is hidden
    shown = bias if bias.dtype == torch.bool else bias > _HIDDEN
    return by_rule & (shown.expand(*bias.shape[:3], kv_len).sum(-1) > 1)
