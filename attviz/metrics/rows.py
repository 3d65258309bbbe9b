"""What one attention call says about its rows: entropy, largest logit, weight on the first token. Read while the call is alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attviz.metrics.packed import text_bounds


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
    call: Any,
    query_mask: Bool[Tensor, "batch q_len"] | None = None,
    document_ids: Int[Tensor, "batch q_len"] | None = None,
) -> Rows:
    """Read the rows of a call, in O(q_len) memory where it has query and key.

    Args:
        call: An :class:`attviz.calls.AttentionCall`, alive: inside the operator, or made by hand.
        query_mask: True at real tokens: under left padding it says which key is the first.
        document_ids: Of texts packed into one row, the number of each query's text: it says which key is the first of each.

    Raises:
        ReadingError: If the call cannot give its rows.
    """
    q_len = call.shape[2]
    first = torch.zeros(1, 1, 1, dtype=torch.long, device=call.device)
    if document_ids is not None:
        first = text_bounds(document_ids)[0][:, None]
    elif query_mask is not None and query_mask.shape[1] == q_len == call.shape[3]:
        first = query_mask.to(call.device).int().argmax(1)[:, None, None]
    facts = call.summary()
    return Rows(facts.entropy, facts.max_logit, call.at(first.expand(-1, -1, q_len)), facts.visible > 1)
