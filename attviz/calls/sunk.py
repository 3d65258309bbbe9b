"""A fused call whose last keys are no tokens: null keys, learned or zero, that only take weight from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attviz.calls.call import AttentionCall, RowFacts
from attviz.calls.deferred import Deferred
from attviz.calls.scores import _HIDDEN, ScoreCall

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class SunkCall(AttentionCall):
    """A call without its last keys, which stay in the denominator: as an eager softmax with columns that are no keys.

    Attributes:
        whole: The call as its operator saw it.
        sinks: Number of its last keys that are none.
    """

    __slots__ = ("sinks", "whole")

    whole: ScoreCall

    def __init__(self, whole: ScoreCall, sinks: int) -> None:
        super().__init__(whole.operator, whole.kv_offset)
        self.whole, self.sinks = whole, sinks

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(batch, num_heads, q_len, kv_len)``."""
        *rows, kv_len = self.whole.shape
        return (*rows, kv_len - self.sinks)  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where query and key are."""
        return self.whole.device

    def defer(self) -> Deferred:
        """The diagonal; no sink is a query's own key."""
        return self.whole.defer()

    def rows(self, queries: Int[Tensor, "*batch n"]) -> Float[Tensor, "batch num_heads n kv_len"]:
        """Whole rows of some queries."""
        return self.whole.rows(queries)[..., : self.shape[3]]

    def own(self, offset: int = 0) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key ``offset`` after its own; NaN where there is no such key."""
        found = self.whole.own(offset)
        return found if offset <= 0 else torch.where(self.own_keys() + offset < self.shape[3], found, torch.nan)

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key of its own choice; NaN where the index lies outside the keys."""
        return self.whole.at(index.masked_fill(index >= self.shape[3], -1), bounded=bounded)

    def mass(self, features: Float[Tensor, "*batch kv_len num_features"]) -> Float[Tensor, "batch num_heads q_len num_features"]:
        """Sums over the keys; a sink has no features."""
        return self.whole.mass(torch.nn.functional.pad(features, (0, 0, 0, self.sinks)))

    def received(self, real: Bool[Tensor, "batch q_len"] | None = None) -> Float[Tensor, "2 batch num_heads kv_len"]:
        """Weight that each key receives from all (real) queries, and how many of them can see it."""
        return self.whole.received(real)[..., : self.shape[3]]

    def summarise(self) -> RowFacts:
        """Entropy over the keys, their largest logit and number of visible ones."""
        kv_len, found = self.shape[3], []
        for span in self.whole._spans():
            logits = self.whole._logits(span)
            largest, visible = logits[..., :kv_len].amax(-1), (logits[..., :kv_len] > _HIDDEN).sum(-1)
            weights = self.rows(torch.arange(span.start, span.stop, device=self.device))
            found.append((torch.special.entr(weights).sum(-1), largest.float(), visible))
        return RowFacts(*(torch.cat(parts, -1) for parts in zip(*found, strict=True)))

    def hides_previous(self) -> Bool[Tensor, "batch q_len-1"] | None:
        """True where query ``i + 1`` has no weight on key ``i`` in any head."""
        if not isinstance(self.kv_offset, int) or self.kv_offset or self.shape[3] != self.shape[2]:
            return None
        return (self.own(-1)[..., 1:] == 0).all(1)
