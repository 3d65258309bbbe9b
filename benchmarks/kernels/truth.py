"""What a model's attention weights are, from what its layers give to scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor


def true_weights(run: Callable[[], object]) -> Tensor:
    """Softmax in float64 of the query and key that each layer gives the operator, ``[num_layers, batch, num_heads, q_len, kv_len]``.

    Of the same numbers in half precision: an eager model would round its hidden states elsewhere, and its own layers differ then.
    """
    found, plain = [], F.scaled_dot_product_attention

    def seen(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, *rest: Any, **named: Any
    ) -> Tensor:
        scale = named.get("scale") or query.shape[3] ** -0.5
        logits = scale * query.double() @ key.double().repeat_interleave(query.shape[1] // key.shape[1], 1).mT
        if named.get("is_causal", rest[:1] == (True,)):
            logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -torch.inf)
        if attn_mask is not None:  # older releases of transformers make one
            hidden = attn_mask.logical_not() if attn_mask.dtype is torch.bool else attn_mask <= torch.finfo(attn_mask.dtype).min
            logits = logits.masked_fill(hidden, -torch.inf)
        found.append(logits.softmax(-1))
        return plain(query, key, value, attn_mask, dropout_p, *rest, **named)

    with mock.patch.object(F, "scaled_dot_product_attention", seen):
        run()
    return torch.stack(found)
