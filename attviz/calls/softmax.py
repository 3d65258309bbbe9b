"""Calls that show their weights: an eager softmax, the math path of SDPA, the fast path of ``nn.MultiheadAttention``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attviz.calls.call import AttentionCall, RowFacts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class SoftmaxCall(AttentionCall):
    """A call whose matrix exists because the model computed it; it is read a few rows at a time and never copied whole.

    Attributes:
        weights: Softmax output, before dropout. The model's tensor has three or more dimensions; it can be read once it has four.
        logits: What went into the softmax, if the operator exposes it.
        sinks: Columns after the keys that are not keys (a learned sink).
    """

    __slots__ = ("logits", "sinks", "weights")

    def __init__(
        self,
        operator: str,
        weights: Float[Tensor, "batch num_heads q_len kv_len"],
        logits: Float[Tensor, "batch num_heads q_len kv_len"] | None = None,
        kv_offset: int | Tensor = 0,
        sinks: int = 0,
    ) -> None:
        self.operator, self.weights, self.logits, self.kv_offset, self.sinks = operator, weights, logits, kv_offset, sinks

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(batch, num_heads, q_len, kv_len)``."""
        batch, num_heads, q_len, columns = self.weights.shape
        return batch, num_heads, q_len, columns - self.sinks

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.device

    def rows(self, queries: Int[Tensor, "*batch n"]) -> Float[Tensor, "batch num_heads n kv_len"]:
        """Whole rows of some queries."""
        keys = self.weights.detach()[..., : self.shape[3]]
        if queries.ndim == 1:
            return keys.index_select(2, queries).float()
        index = queries[:, None, :, None].expand(*keys.shape[:2], queries.shape[1], keys.shape[3])
        return keys.gather(2, index).float()

    def own(self, offset: int = 0) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key ``offset`` after its own; NaN where there is no such key."""
        if isinstance(self.kv_offset, Tensor):
            return super().own(offset)
        _, _, q_len, kv_len = self.shape
        shift = self.kv_offset + offset
        low, high = max(0, -shift), min(q_len, kv_len - shift)
        if low >= high:
            return self.weights.new_full(self.weights.shape[:3], torch.nan, dtype=torch.float32)
        line = self.weights.detach()[..., :kv_len].diagonal(shift, -2, -1)[..., : high - low]
        if (low, high) == (0, q_len):
            return line.to(torch.float32, copy=True)  # not a view: it would keep the whole matrix alive
        return torch.nn.functional.pad(line.float(), (low, q_len - high), value=torch.nan)

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key of its own choice; NaN where the index lies outside the keys."""
        batch, num_heads, q_len, kv_len = self.shape
        index = index.expand(batch, num_heads, q_len)
        found = self.weights.detach().gather(-1, index.clamp(0, max(kv_len - 1, 0))[..., None])[..., 0].float()
        return torch.where((index >= 0) & (index < kv_len), found, torch.nan)

    def summarise(self) -> RowFacts:
        """Entropy, largest logit and number of visible keys of each row."""
        facts = super().summarise()
        if self.logits is None or self.sinks:  # with a sink, models shift their logits before the softmax
            return facts
        return facts._replace(max_logit=self.logits.detach().amax(-1).float().reshape(facts.entropy.shape))

    def hides_previous(self) -> Bool[Tensor, "batch q_len-1"] | None:
        """True where query ``i + 1`` has no weight on key ``i`` in any head."""
        if not isinstance(self.kv_offset, int) or self.kv_offset or self.shape[3] != self.shape[2]:
            return None
        return (self.own(-1)[..., 1:] == 0).all(1)
