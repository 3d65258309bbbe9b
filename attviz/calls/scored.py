"""Calls whose scores come from functions: compiled flex_attention, a higher-order operator that bypasses the dispatcher.

Where the kernel returns its log-sum-exp (on every device but the CPU, inside transformers), that and the scores through ``score_mod`` and
``mask_mod`` are all it takes: one kernel on a GPU. Where it does not, flex_attention is asked for it on a GPU (calls/compiled.py), and on
the CPU the rows are summed again in blocks of queries: O(q_len) memory, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attviz.calls.compiled import logsumexp_through, weights_through
from attviz.calls.deferred import Deferred
from attviz.calls.scores import ScoreCall
from attviz.calls.trust import agrees
from attviz.kernels import on_gpu, weights_at_keys
from attviz.kernels.twins import twin

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_of_mask: WeakKeyDictionary[Any, dict[Any, Tensor]] = WeakKeyDictionary()  # block mask -> which blocks there are, who sees which key
_SAMPLED = 4  # rows compared with the kernel's log-sum-exp at its first call


class ScoredCall(ScoreCall):
    """Query, key, and the functions passed to flex_attention.

    Attributes:
        score_mod: ``(score, batch, head, q_idx, kv_idx) -> score``, on single numbers.
        mask_mod: ``(batch, head, q_idx, kv_idx) -> bool``.
        block_mask: Which blocks of queries and keys the kernel looks at; None for all.
        block_size: Queries and keys per block.
    """

    __slots__ = ("_asked", "_present", "block_mask", "block_size", "mask_mod", "score_mod")

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
        self._asked: Tensor | None = None
        self.block_size: tuple[int, int] = (1, 1) if block_mask is None else block_mask.BLOCK_SIZE

    @property
    def present(self) -> Tensor | None:
        """Which blocks of queries and keys the kernel looks at; computed once for all layers with the same mask."""
        if self._present is None and self.block_mask is not None:
            known = _of_mask.setdefault(self.block_mask, {})
            if "present" not in known:
                known["present"] = self.block_mask.to_dense().bool()
            self._present = known["present"]
        return self._present

    def own(self, offset: int = 0) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key ``offset`` after its own; on a GPU in one launch."""
        if not on_gpu(self.query) or isinstance(self.kv_offset, Tensor):
            return super().own(offset)
        return self._one_pass(self.kv_offset + offset, lambda: self.seen(offset), lambda: self._at_by_hand(self.own_keys() + offset))

    def _one_pass(
        self, index: Tensor | int, seen: Callable[[], Tensor | None], by_hand: Callable[[], Tensor]
    ) -> Float[Tensor, "batch num_heads q_len"]:
        """Weights on one key of each query, on a GPU: one kernel where no function changes the scores, else one that is compiled."""
        lse = self._kernels_logsumexp()
        if lse is None:
            return by_hand()
        sinks = None if self.sinks is None else self.sinks.detach()
        if self.score_mod is None:
            at: dict[str, Any] = {"shift": index} if isinstance(index, int) else {"index": index}
            return weights_at_keys(self.query, self.key, lse, row_mask=seen(), scale=self.scale, sinks=sinks, **at)
        mod, mask = self.score_mod, seen()
        return twin(
            "flex_attention's scores", (self.query.dtype, _number(mod)), True,
            lambda: weights_through(mod, self.query, self.key, lse, index, seen=mask, sinks=sinks, scale=self.scale), by_hand,
        )  # fmt: skip

    def _kernels_logsumexp(self) -> Float[Tensor, "batch num_heads q_len"] | None:
        """The log-sum-exp that the kernel returned, else that of flex_attention compiled once more; None if neither is right."""
        if self.logsumexp is not None:
            return self.logsumexp if self._trusted(self.logsumexp) else None
        if self._asked is None:
            asked = twin(
                "flex_attention's log-sum-exp", (self.query.dtype, _number(self.score_mod)), True,
                lambda: logsumexp_through(self.score_mod, self.query, self.key, self.block_mask, self.scale), lambda: None,
            )  # fmt: skip
            if asked is None or not self._trusted(asked, f"{self.operator}, compiled once more"):
                return None
            self._asked = asked
        return self._asked

    def seen(self, offset: int = 0) -> Bool[Tensor, "#batch #num_heads q_len"] | None:
        """Which queries see the key ``offset`` after their own; on a GPU computed once for all layers with the same mask."""
        if self.block_mask is None:
            return None
        return self.once(
            offset,
            lambda: self._seen_at((self.own_keys() + offset).clamp(0, max(self.shape[3] - 1, 0))),  # type: ignore[arg-type,return-value]
        )

    def once(self, kind: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` says of the mask, on a GPU once for all layers; elsewhere its function may look at something new each time."""
        if not on_gpu(self.query):
            return make()
        masks = _of_mask.setdefault(self.block_mask, {})
        key = (kind, self.kv_offset, self.shape)
        if key not in masks:
            masks[key] = make()
        return masks[key]

    def _seen_at(self, index: Int[Tensor, "#batch #num_heads q_len"]) -> Bool[Tensor, "#batch #num_heads q_len"] | None:
        """Which queries see the key chosen for them, by the mask alone."""
        if self.block_mask is None:
            return None
        return self.mask_of(torch.arange(self.shape[2], device=self.device), index[..., None])[..., 0]

    def mask_of(self, rows: Int[Tensor, " n"], keys: Int[Tensor, "#batch #num_heads #n m"]) -> Bool[Tensor, "batch num_heads n m"]:
        """Which of these keys some queries see, by the mask alone."""
        batch, num_heads, *_ = self.shape
        scores = torch.zeros(batch, num_heads, len(rows), keys.shape[-1], device=self.device)
        found: Tensor = self.replace(score_mod=None).modify(scores, rows[None, None, :, None], keys) == 0
        return found

    def defer(self) -> Deferred:
        """The diagonal; the result of the single launch is already in [0, 1]."""
        return Deferred(self.own(), bounded=True)

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key of its own choice; NaN where the index lies outside the keys."""
        if on_gpu(self.query):
            inside = index.clamp(0, max(self.shape[3] - 1, 0))
            return self._one_pass(index, lambda: self._seen_at(inside), lambda: self._at_by_hand(index))
        return self._at_by_hand(index)

    def _at_by_hand(self, index: Int[Tensor, "#batch #num_heads q_len"]) -> Float[Tensor, "batch num_heads q_len"]:
        with torch.autocast(self.device.type, enabled=False):
            return super().at(index)

    def denominator(self) -> Float[Tensor, "batch num_heads q_len"]:
        """Log-sum-exp of each row, sinks included."""
        lse = self.logsumexp
        if self._rows_lse is None and on_gpu(self.query):
            lse = self._kernels_logsumexp()
        elif lse is not None and self._rows_lse is None and not self._trusted(lse):
            lse = None
        if self._rows_lse is None and lse is not None:
            rows = lse.to(torch.promote_types(self.query.dtype, torch.float32))
            self._rows_lse = rows if self.sinks is None else torch.logaddexp(rows, self.sinks.detach().to(rows.dtype)[:, None])
        return super().denominator()

    def hides_previous(self) -> Bool[Tensor, "batch q_len-1"] | None:
        """True where query ``i + 1`` has no weight on key ``i`` in any head."""
        return (self.own(-1) == 0).all(1)[:, 1:]

    def pairs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key, log-sum-exp of the rows and what the functions add to the scaled scores."""
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

    def _trusted(self, logsumexp: Tensor, by: str = "") -> bool:
        length = self.query.shape[2]

        def rows() -> Tensor:  # asked at the first call only
            return torch.linspace(0, length - 1, min(_SAMPLED, length), device=logsumexp.device).round().long()

        def exact() -> Tensor:
            return self._rows_of(rows()).logsumexp(-1).float()

        return agrees(by or self.operator, self.query, lambda: logsumexp[..., rows()].to(torch.float32), exact)


def _number(function: Any) -> int:
    """A number that identifies a function's code."""
    return id(getattr(function, "__code__", function))


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
