"""Packed texts read back into the padded rows they were taken from, as when transformers calls FlashAttention.

On a GPU the packed texts are read, in one launch, and the result is put back into the rows; on the CPU the rows are read directly. Nothing
waits for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from attviz.calls.call import RowFacts
from attviz.calls.deferred import Deferred
from attviz.calls.packed import PackedCall
from attviz.errors import ShapeError
from attviz.kernels import on_gpu
from attviz.kernels.qk import QkOptions

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


_known = WeakTensorKeyDictionary()  # which tokens are real -> (version and number of the packed ones, where each is among them)


class Padding(NamedTuple):
    """Where the tokens of packed texts were before padding was removed: True at real tokens.

    Attributes:
        queries: ``[batch, q_len]``.
        keys: ``[batch, kv_len]``.
    """

    queries: Bool[Tensor, "batch q_len"]
    keys: Bool[Tensor, "batch kv_len"]


def slots(kept: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Position of each token among the packed ones, -1 where there is none."""
    return torch.where(kept, kept.flatten().cumsum(0).view_as(kept) - 1, -1)


def spread(packed: Tensor, kept: Bool[Tensor, "batch length"], nothing: float = torch.nan) -> Float[Tensor, "batch rows length"]:
    """Values ``[1, rows, total]`` of packed texts back in their padded rows; ``nothing`` where a row has no token."""
    return torch.where(kept[:, None], packed[0][:, _places(kept, packed.shape[2])].transpose(0, 1), nothing)


def _places(kept: Bool[Tensor, "batch length"], total: int) -> Int[Tensor, "batch length"]:
    """As :func:`slots`, and some place where there is no token; the layers of a forward share their mask, and so the places."""
    if kept.is_inference():  # has no version: nobody could tell when it was refilled
        return slots(kept).clamp(0, max(total - 1, 0))
    known = _known.get(kept)
    if known is None or known[0] != (kept._version, total):
        known = _known[kept] = ((kept._version, total), slots(kept).clamp(0, max(total - 1, 0)))
    places: Tensor = known[1]
    return places


def cut(rows: Tensor, kept: Bool[Tensor, "batch length"], total: int) -> Tensor:
    """The opposite: values ``[batch, rows, length]`` of the real tokens, ``[1, rows, total]``."""
    places = torch.arange(kept.numel(), device=kept.device)
    target = torch.where(kept, slots(kept), total).flatten()  # what is no token goes behind the last
    order = torch.zeros(total + 1, dtype=torch.long, device=kept.device).scatter_(0, target, places)[:total]
    return rows.transpose(0, 1).flatten(1)[:, order][None]


def spread_heads(
    packed: Float[Tensor, "1 heads total width"], kept: Bool[Tensor, "batch length"], nothing: float = 0.0
) -> Float[Tensor, "batch heads length width"]:
    """Vectors of packed texts back in their padded rows: queries or keys, or sums over keys."""
    heads, _, width = packed.shape[1:]
    flat = packed.transpose(2, 3).reshape(1, heads * width, -1)
    padded: Tensor = spread(flat, kept, nothing).unflatten(1, (heads, width))
    return padded.transpose(2, 3)


class PaddedCall(PackedCall):
    """A packed call, read in terms of its padded rows.

    Attributes:
        padding: Where its tokens were.
        packed: The call as its operator saw it.
    """

    __slots__ = ("_padded", "packed", "padding")

    def __init__(self, packed: PackedCall, padding: Padding) -> None:
        super().__init__(packed.operator, packed.query, packed.key, packed.logsumexp, packed.options)
        self.packed, self.padding = packed, padding
        self._padded: PackedCall | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(batch, num_heads, q_len, kv_len)`` of the padded rows."""
        queries, keys = self.padding
        return queries.shape[0], self.query.shape[1], queries.shape[1], keys.shape[1]

    def defer(self) -> Deferred:
        """The diagonal; NaN where a row has no token."""
        return Deferred(spread(self.packed.diagonal(), self.padding.queries), bounded=True)

    def own_keys(self) -> Int[Tensor, "#batch 1 q_len"]:
        """The key that is each query's own."""
        return self._rows().own_keys()

    def own(self, offset: int = 0) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key ``offset`` after its own; NaN where its row has no such key."""
        return self.at(self.own_keys() + offset) if on_gpu(self.query) else self._rows().own(offset)

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key of its own choice; NaN where the index lies outside the row."""
        if not on_gpu(self.query):
            return self._rows().at(index, bounded=bounded)
        batch, _, q_len, kv_len = self.shape
        index = index.expand(batch, -1, q_len)
        of_keys = slots(self.padding.keys)[:, None].expand(-1, index.shape[1], -1)
        inside = (index >= 0) & (index < kv_len)
        packed = torch.where(inside, of_keys.gather(2, index.clamp(0, kv_len - 1)), -1)
        found = self.packed.at(cut(packed, self.padding.queries, self.query.shape[2]), bounded=True)
        hidden = inside & (packed < 0) & self.padding.queries[:, None]  # a key that is no token is hidden
        return torch.where(hidden, 0.0, spread(found, self.padding.queries))

    def rows(self, queries: Int[Tensor, "*batch n"]) -> Float[Tensor, "batch num_heads n kv_len"]:
        """Whole rows of some queries."""
        return self._rows().rows(queries)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key, log-sum-exp of the rows and what is added to the scaled scores."""
        return self._rows().pairs()

    def received(self, real: Bool[Tensor, "batch q_len"] | None = None) -> Float[Tensor, "2 batch num_heads kv_len"]:
        """Weight that each key receives from all (real) queries, and how many of them can see it."""
        if not on_gpu(self.query):
            return self._rows().received(real)
        kept = None if real is None else cut(real[:, None], self.padding.queries, self.query.shape[2])[:, 0]
        return torch.stack([spread(part, self.padding.keys, 0.0) for part in self.packed.received(kept)])

    def mass(self, features: Float[Tensor, "*batch kv_len num_features"]) -> Float[Tensor, "batch num_heads q_len num_features"]:
        """Sums over the keys, ``sum_j A_ij features_jf``."""
        if not on_gpu(self.query):
            return self._rows().mass(features)
        of_rows = features.float().expand(len(self.padding.keys), *features.shape[-2:]).mT
        packed = self.packed.mass(cut(of_rows, self.padding.keys, self.key.shape[2])[0].mT)
        return spread_heads(packed, self.padding.queries, torch.nan)

    def within(self, reach: int = -1) -> Float[Tensor, "batch num_heads q_len 2"]:
        """Mass on the keys within ``reach`` of the own one, and the sum of their weights times their distance."""
        if not on_gpu(self.query):
            return self._rows().within(reach)
        return spread_heads(self.packed.within(reach), self.padding.queries, torch.nan)

    def summarise(self) -> RowFacts:
        """Entropy, largest logit and number of visible keys of each row; 0 where a row has no token."""
        entropy, largest, visible = self.packed.summary()
        assert largest is not None
        found = torch.cat([entropy, largest, visible.expand_as(entropy).to(entropy.dtype)], 1)
        entropy, largest, counts = spread(found, self.padding.queries, 0.0).chunk(3, 1)
        return RowFacts(entropy, largest, counts.long())

    def visible(self) -> Int[Tensor, "#batch #num_heads q_len"]:
        """Number of keys that each query can see."""
        return self.summary().visible

    def denominator(self) -> Float[Tensor, "batch num_heads q_len"]:
        """Log-sum-exp of each row."""
        return self._rows().denominator()

    def _rows(self) -> PackedCall:
        """The same attention with every text in a padded row of its own."""
        if self._padded is None:
            query, key = spread_heads(self.query.detach(), self.padding.queries), spread_heads(self.key.detach(), self.padding.keys)
            if key.shape[2] < query.shape[2]:
                raise ShapeError(f"{self.operator}: padded rows of {query.shape[2]} queries have only {key.shape[2]} keys.")
            options: QkOptions = {**self.options, "key_mask": self.padding.keys, "cu_seqlens_q": None, "cu_seqlens_k": None}
            self._padded = PackedCall(self.operator, query, key, None, options)
        return self._padded
