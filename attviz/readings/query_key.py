"""Query and key themselves, for views that draw single pairs; for short texts only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attviz.errors import ArgumentError, ReadingError
from attviz.readings.protocol import Price, Reading, Tokens, whole_number


@dataclass(frozen=True, eq=False)
class QueryKey(Reading):
    """Copies of query and key, and everything needed to recompute their weights: ``softmax(scale * query @ key.mT + bias)``.

    Returns ``"<name>.query"`` ``[batch, num_heads, q_len, head_dim]``, ``"<name>.key"`` ``[batch, num_kv_heads, kv_len, head_dim]`` (after
    positional encoding), ``"<name>.logsumexp"`` ``[batch, num_heads, q_len]``, ``"<name>.scale"`` and ``"<name>.bias"``
    ``[batch, num_heads, q_len, kv_len]``, -inf where a key is hidden. A layer that shows no query and key, or
    whose scores are not a product and a bias, returns ``"<name>.weights"`` ``[batch, num_heads, q_len, kv_len]`` instead.

    Attributes:
        dtype: Dtype of the copies.
        max_tokens: A longer text is refused with the reason, because the bias is a matrix.
    """

    dtype: torch.dtype = torch.float16
    max_tokens: int = 2048
    price: ClassVar[Price] = "copy"
    per: ClassVar = None
    of_cross = True

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise ArgumentError(f"QueryKey: dtype must be a floating point dtype of torch, got {self.dtype!r}.")
        whole_number("QueryKey", "max_tokens", self.max_tokens, 1)
        super().__post_init__()

    def read(self, call: Any, tokens: Tokens) -> Mapping[str, Tensor]:
        """Query, key, log-sum-exp, scale and bias, or weights."""
        q_len, kv_len = call.shape[2:]
        if max(q_len, kv_len) > self.max_tokens:
            raise ReadingError(
                f"{max(q_len, kv_len)} tokens are more than max_tokens={self.max_tokens}: the bias of all pairs would be kept"
            )
        if call.query is not None and call.key is not None:
            with suppress(ReadingError):  # capped scores: the weights are all there is to keep
                query, key, logsumexp, bias = call.pairs()
                return {
                    "query": query.to(self.dtype, copy=True),
                    "key": key.to(self.dtype, copy=True),
                    "logsumexp": logsumexp.to(torch.float32, copy=True),
                    "scale": torch.tensor(call.scale),
                    "bias": bias,
                }
        return {"weights": call.rows(torch.arange(q_len, device=call.device))}
