"""Calls whose scores are made by functions: compiled flex_attention, a higher-order operator that passes no dispatcher.

Where the kernel returns its log-sum-exp (on every device but the CPU, inside transformers), that and the scores through ``score_mod`` and
``mask_mod`` are all it takes. Where it does not, the rows are summed once more in blocks of queries: O(q_len) memory, float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attviz.calls.deferred import Deferred
from attviz.calls.scores import ScoreCall
from attviz.calls.trust import agrees
from attviz.kernels import on_gpu, weights_at_keys

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_seen_by: WeakKeyDictionary[Any, dict[Any, Tensor]] = WeakKeyDictionary()  # block mask -> which queries see their key
_SAMPLED = 4  # rows compared with the kernel's log-sum-exp at its first call


class ScoredCall(ScoreCall):
    """Query, key, and the functions that flex_attention was given.

    Attributes:
        score_mod: ``(score, batch, head, q_idx, kv_idx) -> score``, on single numbers.
        mask_mod: ``(batch, head, q_idx, kv_idx) -> bool``.
        block_mask: Which blocks of queries and keys the kernel looks at; None for all.
        block_size: Queries and keys of a block.
    """

    __slots__ = ("_present", "block_mask", "block_size", "mask_mod", "score_mod")

    def __init__(
        self,
        operator: str,
        query: Float[Tensor, "batch num_heads q_len head_dim"],
        key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
        score_mod: Callable[..., Tensor] | None = None,
        block_mask: Any = None,
        scale: float | None = None,
        logsumexp: Tensor | None = None,
        sinks: Tensor | None = None,
        kv_offset: int | Tensor = 0,
    ) -> None:
        device = query.device.type
        if torch.is_autocast_enabled(device) and _casts_under_autocast():
            query, key = query.to(torch.get_autocast_dtype(device)), key.to(torch.get_autocast_dtype(device))
        self.operator, self.query, self.key, self.kv_offset = operator, query.detach(), key.detach(), kv_offset
        self.scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        self.logsumexp, self.sinks, self._rows_lse = None if logsumexp is None else logsumexp.detach(), sinks, None
        self.score_mod, self.block_mask = score_mod, block_mask
        self.mask_mod = None if block_mask is None else block_mask.mask_mod
        self._present: Tensor | None = None
        self.block_size: tuple[int, int] = (1, 1) if block_mask is None else block_mask.BLOCK_SIZE

    @property
    def present(self) -> Tensor | None:
        """Which blocks of queries and keys the kernel looks at."""
        if self._present is None and self.block_mask is not None:
            self._present = self.block_mask.to_dense().bool()
        return self._present

    def own(self, offset: int = 0) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key ``offset`` after its own; on a GPU in one launch where no function changes the scores."""
        trusted = on_gpu(self.query) and self.score_mod is None and self.logsumexp is not None and self._trusted(self.logsumexp)
        if not trusted or isinstance(self.kv_offset, Tensor):
            return super().own(offset)
        assert self.logsumexp is not None
        rules = {"scale": self.scale, "sinks": None if self.sinks is None else self.sinks.detach(), "shift": self.kv_offset + offset}
        return weights_at_keys(self.query, self.key, self.logsumexp, row_mask=self._seen(offset), **rules)  # type: ignore[arg-type]

    def _seen(self, offset: int) -> Bool[Tensor, "#batch #num_heads q_len"] | None:
        """Which queries see the key ``offset`` after their own; made once for all layers that are given the same mask."""
        if self.block_mask is None:
            return None
        masks = _seen_by.setdefault(self.block_mask, {})
        kind = (offset, self.kv_offset, self.shape)
        if kind not in masks:
            keys = (self.own_keys() + offset).clamp(0, max(self.shape[3] - 1, 0))[..., None]
            rows = torch.arange(self.shape[2], device=self.device)[None, None, :, None]
            scores = torch.zeros((*self.shape[:3], 1), device=self.device)
            masks[kind] = self.modify(scores, rows, keys)[..., 0] == 0
        return masks[kind]

    def defer(self) -> Deferred:
        """The diagonal; what one launch gave is in [0, 1]."""
        return Deferred(self.own(), bounded=True)

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key of its own choice; NaN where the index lies outside the keys."""
        with torch.autocast(self.device.type, enabled=False):
            return super().at(index, bounded=bounded)

    def denominator(self) -> Float[Tensor, "batch num_heads q_len"]:
        """Log-sum-exp of each row, sinks included."""
        if self._rows_lse is None and self.logsumexp is not None and self._trusted(self.logsumexp):
            rows = self.logsumexp.to(torch.promote_types(self.query.dtype, torch.float32))
            self._rows_lse = rows if self.sinks is None else torch.logaddexp(rows, self.sinks.detach().to(rows.dtype)[:, None])
        return super().denominator()

    def hides_previous(self) -> Bool[Tensor, "batch q_len-1"] | None:
        """True where query ``i + 1`` gives key ``i`` nothing in any head."""
        return (self.own(-1) == 0).all(1)[:, 1:]

    def pairs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key, log-sum-exp of the rows and what is added to the scaled scores, where its functions add."""
        found = super().pairs()
        last = torch.arange(max(0, self.shape[2] - 8), self.shape[2], device=self.device)
        plain = self.replace(score_mod=None, mask_mod=None, block_mask=None, _present=None)
        logits = plain._rows_of(last) + found[3][:, :, last]
        if not torch.allclose(torch.exp(logits - found[2][..., last, None]), self.rows(last), rtol=0, atol=1e-3):
            raise self.cannot("QueryKey", "its score_mod does more than add to the scores")
        return found

    def modify(self, scores: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
        """Apply the functions to all scores at once, and hide the blocks that the kernel does not look at."""
        batch, heads = (torch.arange(size, device=scores.device) for size in scores.shape[:2])
        with _indexing():
            if self.score_mod is not None:
                scores = _mapped(self.score_mod, rows, keys, with_scores=True)(scores, batch, heads, _mappable(rows, 2), _mappable(keys, 3))
            if self.mask_mod is not None:
                kept = _mapped(self.mask_mod, rows, keys, with_scores=False)(batch, heads, _mappable(rows, 2), _mappable(keys, 3))
                scores = torch.where(kept, scores, -torch.inf)
        if self.present is not None:
            texts = torch.arange(self.present.shape[0], device=scores.device)[:, None, None, None]
            of_heads = torch.arange(self.present.shape[1], device=scores.device)[None, :, None, None]
            present = self.present[texts, of_heads, rows // self.block_size[0], keys // self.block_size[1]]
            scores = torch.where(present, scores, -torch.inf)
        return scores

    def _trusted(self, logsumexp: Tensor) -> bool:
        length = self.query.shape[2]

        def rows() -> Tensor:  # asked at the first call only
            return torch.linspace(0, length - 1, min(_SAMPLED, length), device=logsumexp.device).round().long()

        return agrees(
            self.operator, self.query, lambda: logsumexp[..., rows()].to(torch.float32), lambda: self._rows_of(rows()).logsumexp(-1).float()
        )


def _mappable(index: Tensor, axis: int) -> Tensor:
    """An index without the axes that it does not vary over, except its own."""
    return index.reshape([size for place, size in enumerate(index.shape) if size > 1 or place == axis])


def _mapped(function: Callable[..., Tensor], rows: Tensor, keys: Tensor, *, with_scores: bool) -> Callable[..., Tensor]:
    """A score_mod or mask_mod of single numbers, over whole tensors ``[batch, num_heads, n, m]``."""
    for axis in (3, 2, 1, 0):
        dims: list[int | None] = [0] if with_scores else []
        dims += [0 if axis == own else None for own in (0, 1)]
        dims += [0 if axis == own or index.shape[axis] > 1 else None for own, index in ((2, rows), (3, keys))]
        function = torch.vmap(function, in_dims=tuple(dims))
    return function


def _indexing() -> AbstractContextManager[Any]:
    """Lets ``table[q_idx]`` in a score_mod index with tensors, as inside flex_attention."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()


def _casts_under_autocast() -> bool:
    from torch._higher_order_ops import flex_attention

    return hasattr(flex_attention, "_flex_attention_autocast_impl")
