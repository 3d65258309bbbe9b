"""What a model's attention weights are, from what its layers give to scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from attviz.kernels.references import dense_logits


def true_weights(run: Callable[[], object]) -> Tensor:
    """Softmax in float64 of the query and key that each layer gives the operator, ``[num_layers, batch, num_heads, q_len, kv_len]``.

    Of the same numbers in half precision: an eager model would round its hidden states elsewhere, and its own layers differ then.
    """
    found, plain = [], F.scaled_dot_product_attention

    def seen(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, *rest: Any, **named: Any
    ) -> Tensor:
        causal = named.get("is_causal", rest[:1] == (True,))
        logits = dense_logits(query, key, scale=named.get("scale"), is_causal=causal, causal_alignment="top_left", bias=attn_mask)
        found.append(logits.softmax(-1))
        return plain(query, key, value, attn_mask, dropout_p, *rest, **named)

    with mock.patch.object(F, "scaled_dot_product_attention", seen):
        run()
    return torch.stack(found)
