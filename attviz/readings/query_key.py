"""Query and key themselves, for views that draw single pairs: small texts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attviz.errors import ArgumentError, ReadingError
from attviz.readings.protocol import Price, Reading, Tokens, whole_number


@dataclass(frozen=True, eq=False)
class QueryKey(Reading):
    """Copies of query and key, and all it takes to make their weights again: ``softmax(scale * query @ key.mT + bias)``.

    Gives ``"<name>.query"`` ``[batch, num_heads, q_len, head_dim]``, ``"<name>.key"`` ``[batch, num_kv_heads, kv_len, head_dim]`` (after
    positional encoding), ``"<name>.logsumexp"`` ``[batch, num_heads, q_len]``, ``"<name>.scale"`` and ``"<name>.bias"``
    ``[batch, num_heads, q_len, kv_len]``, -inf where a key is hidden.

    Attributes:
        dtype: Of the copies of query and key.
        max_tokens: A longer text gives its reason instead: the bias is a matrix.
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
        """Query, key, log-sum-exp, scale and bias."""
        if call.query is None or call.key is None:
            raise ReadingError(f"{call.operator} shows the weights of its rows, not the query and key they were made of")
        longest = max(call.shape[2:])
        if longest > self.max_tokens:
            raise ReadingError(f"{longest} tokens are more than max_tokens={self.max_tokens}: the bias of all pairs would be kept")
        query, key, logsumexp, bias = call.pairs()
        return {
            "query": query.to(self.dtype, copy=True),
            "key": key.to(self.dtype, copy=True),
            "logsumexp": logsumexp.to(torch.float32, copy=True),
            "scale": torch.tensor(call.scale),
            "bias": bias,
        }
