"""flex_attention, compiled: a higher-order operator that passes no dispatcher, so its Python function is watched.

Where the kernel hands out its log-sum-exp (on every device but the CPU, inside transformers), that and the own scores through ``score_mod``
and ``mask_mod`` are all it takes. Where it does not, the rows are summed once more in blocks of queries: O(q_len) memory, float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from attviz.calls.trust import agrees
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator
from attviz.kernels import self_scores
from attviz.records import AttentionCall

NAME = "flex_attention"
_PARAMETERS = ("query", "key", "value", "score_mod", "block_mask", "scale")
_TILE = 1 << 20  # scores of one block of queries, all heads together: 4 MiB of float32
_SAMPLED = 4  # rows compared with the kernel's log-sum-exp at its first call


def flex_operator(sinks: Tensor | None = None) -> Operator:
    """The entry for one call; ``sinks`` is the learned logit of each head that joins the denominator after the kernel."""

    def read(args: Arguments, kwargs: Keywords, result: Any) -> AttentionCall | str:
        given = {**dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
        query, key = given["query"], given["key"]
        if query.is_nested:
            return "flex_attention over jagged tensors is not read; pad them, or call it on one text after the other"
        rows = FlexRows(query, key, given.get("score_mod"), given.get("block_mask"), given.get("scale"), _logsumexp_of(result), sinks)
        return AttentionCall(NAME, query, key, weights_at=rows.weights_at)

    return Operator(NAME, read, "fused", ())


class FlexRows:
    """The rows of one call: what each query gives to one key, by the functions that flex_attention was given."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        score_mod: Callable[..., Tensor] | None,
        block_mask: Any,
        scale: float | None,
        logsumexp: Tensor | None,
        sinks: Tensor | None,
    ) -> None:
        device = query.device.type
        if torch.is_autocast_enabled(device) and _casts_under_autocast():
            query, key = query.to(torch.get_autocast_dtype(device)), key.to(torch.get_autocast_dtype(device))
        self._query, self._key = query.detach(), key.detach()
        self._score_mod, self._mask_mod = score_mod, None if block_mask is None else block_mask.mask_mod
        self._present = None if block_mask is None else block_mask.to_dense().bool()
        self._block_size: tuple[int, int] = (1, 1) if block_mask is None else block_mask.BLOCK_SIZE
        self._scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        self._logsumexp = None if logsumexp is None else logsumexp.detach()
        self._sinks = sinks
        self._exact = torch.promote_types(query.dtype, torch.float32)

    @torch.no_grad()
    def weights_at(self, offset: int | Tensor) -> Tensor:
        """Weight of each query ``i`` on key ``i + offset``, ``[batch, num_heads, q_len]``; keys that are not there weigh 0."""
        query, key = self._query, self._key
        rows = torch.arange(query.shape[2], device=query.device)
        places = rows + offset
        there = (places >= 0) & (places < key.shape[2])
        places = places.clamp(0, key.shape[2] - 1)
        with torch.autocast(query.device.type, enabled=False):
            own = key if isinstance(offset, int) and offset == 0 and query.shape[2] == key.shape[2] else key.index_select(2, places)
            scores = self._modified(self_scores(query, own) * self._scale, rows, places, paired=True)
            denominator = self._denominator()
        seen = there & (denominator != -torch.inf)
        return torch.where(seen, torch.exp(scores - denominator), 0.0).clamp(0.0, 1.0).float()

    def _denominator(self) -> Tensor:
        if self._logsumexp is None or not self._trusted(self._logsumexp):
            self._logsumexp = self._by_hand(torch.arange(self._query.shape[2], device=self._query.device))
        rows = self._logsumexp.to(self._exact)
        return rows if self._sinks is None else torch.logaddexp(rows, self._sinks.detach().to(rows.dtype)[:, None])

    def _trusted(self, logsumexp: Tensor) -> bool:
        length = self._query.shape[2]
        rows = torch.linspace(0, length - 1, min(_SAMPLED, length), device=logsumexp.device).round().long()
        return agrees(NAME, self._query, lambda: logsumexp[..., rows].to(self._exact), lambda: self._by_hand(rows))

    def _by_hand(self, rows: Tensor) -> Tensor:
        """Log-sum-exp of some rows, ``[batch, num_heads, rows]``; -inf where a row sees no key."""
        query, key = self._query, self._key
        batch, num_heads, _, head_dim = query.shape
        kv_heads, kv_len = key.shape[1], key.shape[2]
        places = torch.arange(kv_len, device=query.device)
        found = query.new_empty(batch, num_heads, len(rows), dtype=self._exact)
        keys = key.to(self._exact).mT  # [batch, kv_heads, head_dim, kv_len]
        size = max(1, _TILE // (batch * num_heads * kv_len))
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            block = query.index_select(2, some).to(self._exact).reshape(batch, kv_heads, -1, head_dim)  # query heads that share a key head
            scores = (block @ keys).mul_(self._scale).view(batch, num_heads, len(some), kv_len)
            found[..., start : start + size] = self._modified(scores, some, places, paired=False).logsumexp(-1)
        return found

    def _modified(self, scores: Tensor, rows: Tensor, places: Tensor, *, paired: bool) -> Tensor:
        """Scores as flex_attention forms them, -inf where they are masked.

        Args:
            scores: ``[batch, num_heads, rows]`` if the rows and places are pairs, else ``[batch, num_heads, rows, places]``.
            rows: Queries.
            places: Keys.
            paired: Whether query ``rows[n]`` meets key ``places[n]`` only, or all of them.
        """
        batch = torch.arange(scores.shape[0], device=scores.device)
        heads = torch.arange(scores.shape[1], device=scores.device)
        with _indexing():
            if self._score_mod is not None:
                scores = _mapped(self._score_mod, paired, with_scores=True)(scores, batch, heads, rows, places)
            if self._mask_mod is not None:
                kept = _mapped(self._mask_mod, paired, with_scores=False)(batch, heads, rows, places)
                scores = torch.where(kept, scores, -torch.inf)
        if self._present is not None:
            blocks_q, blocks_k = rows // self._block_size[0], places // self._block_size[1]
            present = self._present[:, :, blocks_q, blocks_k] if paired else self._present[:, :, blocks_q][..., blocks_k]
            scores = torch.where(present, scores, -torch.inf)
        return scores


def _mapped(function: Callable[..., Tensor], paired: bool, *, with_scores: bool) -> Callable[..., Tensor]:
    """A score_mod or mask_mod of single numbers, over whole tensors."""
    dims: list[tuple[int | None, ...]] = [(None, None, 0, 0)] if paired else [(None, None, None, 0), (None, None, 0, None)]
    for mapped in (*dims, (None, 0, None, None), (0, None, None, None)):
        function = torch.vmap(function, in_dims=((0, *mapped) if with_scores else mapped))
    return function


def _indexing() -> AbstractContextManager[Any]:
    """Lets ``table[q_idx]`` in a score_mod index with tensors, as inside flex_attention."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()


def _casts_under_autocast() -> bool:
    from torch._higher_order_ops import flex_attention

    return hasattr(flex_attention, "_flex_attention_autocast_impl")


def _logsumexp_of(result: Any) -> Tensor | None:
    """The natural log-sum-exp among what flex_attention returned, where it was asked for it."""
    if isinstance(result, Tensor):
        return None
    found = result[1]
    return found if isinstance(found, Tensor) else getattr(found, "lse", None)
