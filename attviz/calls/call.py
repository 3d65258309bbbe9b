"""The questions every attention call can answer, and the slow default: from its rows, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from attviz.calls.deferred import Deferred
from attviz.errors import ReadingError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

TILE = 1 << 20  # weights of one block of queries, all heads together: 4 MiB of float32
DEVICE_TILE = 1 << 26  # an accelerator wants few launches


class RowFacts(NamedTuple):
    """One number per row of the attention matrix.

    Attributes:
        entropy: ``-sum_j A_ij log A_ij`` in nats.
        max_logit: ``max_j s_ij`` after scale, softcap and bias; None if the operator does not expose its logits.
        visible: Number of keys that the query can see, broadcastable to the others.
    """

    entropy: Float[Tensor, "batch num_heads q_len"]
    max_logit: Float[Tensor, "batch num_heads q_len"] | None
    visible: Int[Tensor, "#batch #num_heads q_len"]


class AttentionCall:
    """One attention as its operator saw it. A call is valid only while its operator runs: read it immediately and keep none of its tensors.

    Each kind is one subclass. It must provide ``shape`` and ``rows``; everything else has a slow default here, which holds a few rows at
    a time, and a faster version where possible. All answers are float32, outside the autograd graph; a fully masked row gives 0.

    Attributes:
        operator: Dispatcher name, such as ``"aten::_scaled_dot_product_flash_attention_for_cpu"``.
        kv_offset: Key of query 0: the own key of query ``i`` is ``i + kv_offset``. A tensor if only the device knows it.
        query: After positional encoding, if the operator exposes it.
        key: Before ``repeat_kv`` if the model groups its heads, if the operator exposes it.
        whole: The call as its operator saw it, if this one leaves some of its keys out.
        cu_seqlens: If several texts are packed into one row: the start of each, and the total.
    """

    __slots__ = ("_facts", "kv_offset", "operator")

    query: Float[Tensor, "batch num_heads q_len head_dim"] | None = None
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"] | None = None
    cu_seqlens: Int[Tensor, " texts+1"] | None = None
    whole: AttentionCall | None = None
    operator: str
    kv_offset: int | Tensor
    _facts: RowFacts

    _kept: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        slots = (name for kind in cls.__mro__ for name in kind.__dict__.get("__slots__", ()) if name != "_facts")
        cls._kept = tuple(name for name in slots if isinstance(getattr(cls, name), MemberDescriptorType))  # not a constant of the kind

    def __init__(self, operator: str, kv_offset: int | Tensor = 0) -> None:
        self.operator, self.kv_offset = operator, kv_offset

    # ---- what each kind says

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(batch, num_heads, q_len, kv_len)``."""
        raise NotImplementedError

    def rows(self, queries: Int[Tensor, "*batch n"]) -> Float[Tensor, "batch num_heads n kv_len"]:
        """Whole rows of some queries: ``[n]``, or ``[batch, n]`` if each text has its own."""
        raise NotImplementedError

    # ---- what follows from the rows

    def own(self, offset: int = 0) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key ``offset`` after its own; NaN where there is no such key, 0 where it is hidden."""
        return self.at(self.own_keys() + offset, bounded=True)

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key of its own choice; NaN where the index lies outside the keys.

        Args:
            index: Key of each query, broadcastable to ``[batch, num_heads, q_len]``.
            bounded: With several texts packed into a row, an index outside the query's own text also counts as outside the keys.
        """
        batch, num_heads, q_len, kv_len = self.shape
        index = index.expand(batch, num_heads, q_len)
        there = (index >= 0) & (index < kv_len)
        chosen = index.clamp(0, max(kv_len - 1, 0))[..., None]
        found = torch.cat([block.gather(-1, chosen[:, :, span])[..., 0] for span, block in self.blocks()], -1)
        return torch.where(there, found, torch.nan)

    def mass(self, features: Float[Tensor, "*batch kv_len num_features"]) -> Float[Tensor, "batch num_heads q_len num_features"]:
        """Sums over the keys, ``sum_j A_ij features_jf``: the mass on sets of keys, a mean position, a mean distance."""
        features = features.to(torch.float32)
        features = features[:, None] if features.ndim == 3 else features
        return torch.cat([block @ features for _, block in self.blocks()], -2)

    def within(self, reach: int = -1) -> Float[Tensor, "batch num_heads q_len 2"]:
        """Mass on the keys within ``reach`` of the own one (-1: all), and the sum of their weights times their distance."""
        own, keys = self.own_keys(), torch.arange(self.shape[3], device=self.device)
        parts = []
        for span, block in self.blocks():
            distance = (keys - own[..., span, None]).abs()
            near = block if reach < 0 else block * (distance <= reach)
            parts.append(torch.stack((near.sum(-1), (near * distance).sum(-1)), -1))
        return torch.cat(parts, -2)

    def summary(self) -> RowFacts:
        """Entropy, largest logit and number of visible keys of each row; computed once per call."""
        try:
            return self._facts
        except AttributeError:
            self._facts = self.summarise()
            return self._facts

    def summarise(self) -> RowFacts:
        """Make the summary."""
        found = [(torch.special.entr(block).sum(-1), (block > 0).sum(-1)) for _, block in self.blocks()]
        entropy, visible = (torch.cat(parts, -1) for parts in zip(*found, strict=True))
        return RowFacts(entropy, None, visible)

    def visible(self) -> Int[Tensor, "#batch #num_heads q_len"]:
        """Number of keys that each query can see."""
        return self.summary().visible

    def own_keys(self) -> Int[Tensor, "#batch 1 q_len"]:
        """The key that is each query's own."""
        return (torch.arange(self.shape[2], device=self.device) + self.kv_offset)[None, None]

    def received(self, real: Bool[Tensor, "batch q_len"] | None = None) -> Float[Tensor, "2 batch num_heads kv_len"]:
        """Weight that each key receives from all (real) queries, and how many of them can see it."""
        batch, num_heads, _, kv_len = self.shape
        found = torch.zeros(2, batch, num_heads, kv_len, device=self.device)
        for span, block in self.blocks():
            if real is not None:
                block = block.masked_fill(~real[:, None, span, None], 0.0)
            found[0] += block.sum(-2)
            found[1] += (block > 0).sum(-2)
        return found

    def hides_previous(self) -> Bool[Tensor, "batch q_len-1"] | None:
        """True where query ``i + 1`` does not see key ``i``; None if the call cannot tell."""
        return None

    # ---- the diagonal, on the hot path

    def defer(self) -> Deferred:
        """The diagonal; work that can wait is left to the first read."""
        return Deferred(self.own())

    # ---- common to all kinds

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        raise NotImplementedError

    def replace(self, **changes: Any) -> Any:
        """A call of the same kind with some attributes changed."""
        changed = object.__new__(type(self))
        for name in self._kept:
            setattr(changed, name, getattr(self, name))
        for name, value in changes.items():
            setattr(changed, name, value)
        return changed

    def tile(self) -> int:
        """Number of weights or scores held at a time."""
        return TILE if self.device.type == "cpu" else DEVICE_TILE

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "batch num_heads rows kv_len"]]]:
        """All rows, a few at a time: the queries and their weights. At least one block, which may be empty."""
        batch, num_heads, q_len, kv_len = self.shape
        size = max(1, self.tile() // max(1, batch * num_heads * kv_len))
        for start in range(0, max(q_len, 1), size):
            span = slice(start, min(start + size, q_len))
            yield span, self.rows(torch.arange(span.start, span.stop, device=self.device))

    def cannot(self, what: str, why: str) -> ReadingError:
        """The error for an answer that this call cannot give."""
        return ReadingError(f"{what} cannot be read from {self.operator}: {why}")
