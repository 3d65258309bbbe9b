"""What all calls with query and key share: scores are computed a few rows at a time.

``A[i, j] = exp(s_ij - logsumexp_i)`` holds for every pair, so a weight at any index costs one dot product. Whole rows are computed with a
softmax and need no log-sum-exp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attviz.calls.call import AttentionCall, RowFacts
from attviz.kernels import mass_from_logsumexp, reach_from_logsumexp, received_from_logsumexp, self_scores
from attviz.kernels.qk import QkOptions
from attviz.kernels.self_score import NEVER

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_HIDDEN = -1e30  # a mask adds this or less; no true bias comes near
_FLOOR = -1e30  # shifted scores below this weigh exactly 0; clamping there keeps 0 * inf out of the entropy


class ScoreCall(AttentionCall):
    """A call with query and key. A subclass says what it does to the scaled scores (:meth:`modify`).

    Attributes:
        query: After positional encoding, in the compute dtype of the kernel.
        key: Before ``repeat_kv``; ``num_kv_heads`` divides ``num_heads``.
        logsumexp: Natural logarithm of each row as the kernel returned it; None if it did not, or cannot be trusted.
        scale: Factor on ``query @ key.mT``.
        sinks: Learned logit of each head that joins the denominator.
    """

    __slots__ = ("_rows_lse", "key", "logsumexp", "query", "scale", "sinks")

    query: Float[Tensor, "batch num_heads q_len head_dim"]
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"]
    logsumexp: Float[Tensor, "batch num_heads q_len"] | None
    scale: float
    sinks: Float[Tensor, " num_heads"] | None
    _rows_lse: Tensor | None

    # ---- what each kind says

    def modify(self, scores: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
        """Scores as the kernel forms them, -inf where a key is hidden; may work in place.

        Args:
            scores: Scaled products ``[batch, num_heads, n, m]``.
            rows: Which queries, broadcastable to ``[batch, num_heads, n, 1]``.
            keys: Which keys: all of them, ``[1, 1, 1, kv_len]``, or some for each query, broadcastable to ``[batch, num_heads, n, m]``.
        """
        raise NotImplementedError

    def denominator(self) -> Float[Tensor, "batch num_heads q_len"]:
        """Log-sum-exp of each row, sinks included; -inf where a row sees no key."""
        if self._rows_lse is None:
            found = torch.cat([self._logits(span).logsumexp(-1) for span in self._spans()], -1)
            self._rows_lse = found if self.sinks is None else torch.logaddexp(found, self.sinks.detach().to(found.dtype)[:, None])
        return self._rows_lse

    def replace(self, **changes: Any) -> Any:
        """A call of the same kind with some attributes changed."""
        return super().replace(**{"_rows_lse": None, **changes})

    # ---- answers

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(batch, num_heads, q_len, kv_len)``."""
        batch, num_heads, q_len, _ = self.query.shape
        return batch, num_heads, q_len, self.key.shape[2]

    @property
    def device(self) -> torch.device:
        """Where query and key are."""
        return self.query.device

    def rows(self, queries: Int[Tensor, "*batch n"]) -> Float[Tensor, "batch num_heads n kv_len"]:
        """Whole rows of some queries, computed with a softmax."""
        logits = self._rows_of(queries)
        if self.sinks is not None:
            sinks = self.sinks.detach().to(logits.dtype)[:, None, None].expand(*logits.shape[:3], 1)
            weights = torch.cat([logits, sinks], -1).softmax(-1)[..., :-1]
        else:
            weights = logits.softmax(-1)
        return weights.nan_to_num_(0.0).float()  # NaN: a row that sees no key

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key of its own choice; NaN where the index lies outside the keys."""
        _, _, q_len, kv_len = self.shape
        there = (index >= 0) & (index < kv_len)
        keys = index.clamp(0, max(kv_len - 1, 0))
        scores = self_scores(self.query.detach(), self._keys_at(keys)).mul_(self.scale)
        rows = torch.arange(q_len, device=self.device)[None, None, :, None]
        scores = self.modify(scores[..., None], rows, keys[..., None])[..., 0]
        lse = self.denominator().to(scores.dtype)
        weights = torch.exp(scores - lse).clamp_(0.0, 1.0)
        weights = torch.where(lse <= NEVER, 1.0 / max(kv_len, 1), weights)  # masked everywhere with finfo.min: uniform
        weights = torch.where(lse.isinf() | (scores == -torch.inf), 0.0, weights)
        return torch.where(there, weights.float(), torch.nan)

    def pass_options(self) -> QkOptions | None:
        """The rules of this call for a pass over all its pairs; None if blocks of rows are to answer."""
        return None

    def received(self, real: Bool[Tensor, "batch q_len"] | None = None) -> Float[Tensor, "2 batch num_heads kv_len"]:
        """Weight that each key receives from all (real) queries, and how many of them can see it; one launch on a GPU."""
        options = self.pass_options()
        if options is None:
            return super().received(real)
        return received_from_logsumexp(self.query, self.key, self.denominator(), query_mask=real, **options)

    def mass(self, features: Float[Tensor, "*batch kv_len num_features"]) -> Float[Tensor, "batch num_heads q_len num_features"]:
        """Sums over the keys, ``sum_j A_ij features_jf``; one launch on a GPU."""
        options = self.pass_options()
        if options is None:
            return super().mass(features)
        return mass_from_logsumexp(self.query, self.key, self.denominator(), features, **options)

    def within(self, reach: int = -1) -> Float[Tensor, "batch num_heads q_len 2"]:
        """Mass on the keys within ``reach`` of the own one, and the sum of their weights times their distance; one launch on a GPU."""
        options = self.pass_options()
        if options is None:
            return super().within(reach)
        return reach_from_logsumexp(self.query, self.key, self.denominator(), reach=reach, **options)

    def summarise(self) -> RowFacts:
        """Entropy, largest logit and number of visible keys of each row."""
        found = [self._facts_of(self._logits(span)) for span in self._spans()]
        return RowFacts(*(torch.cat(parts, -1) for parts in zip(*found, strict=True)))

    def pairs(self) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "batch num_heads q_len kv_len"]]:
        """Query, key, log-sum-exp of the rows and what is added to the scaled scores: everything that determines the weights."""
        _, _, q_len, kv_len = self.shape
        rows, keys = torch.arange(q_len, device=self.device), torch.arange(kv_len, device=self.device)
        added = self.modify(torch.zeros(self.shape, device=self.device), rows[None, None, :, None], keys[None, None, None])
        return self.query.detach(), self.key.detach(), self.denominator(), added

    # ---- scores

    def _spans(self) -> list[slice]:
        """Blocks of queries whose scores are computed together."""
        batch, num_heads, q_len, kv_len = self.shape
        size = max(1, self.tile() // max(1, batch * num_heads * kv_len))
        return [slice(start, min(start + size, q_len)) for start in range(0, max(q_len, 1), size)]

    def _logits(self, span: slice) -> Float[Tensor, "batch num_heads rows kv_len"]:
        return self._rows_of(torch.arange(span.start, span.stop, device=self.device))

    def _rows_of(self, queries: Int[Tensor, "*batch n"]) -> Float[Tensor, "batch num_heads n kv_len"]:
        """Logits of some queries against all keys, in float32 or better; query heads that share a key head take one product."""
        query, key = self.query.detach(), self.key.detach()
        batch, num_heads, _, head_dim = query.shape
        exact = torch.promote_types(query.dtype, torch.float32)
        if queries.ndim == 1:
            chosen = query.index_select(2, queries)
        else:
            chosen = query.gather(2, queries[:, None, :, None].expand(batch, num_heads, queries.shape[-1], head_dim))
        grouped = chosen.to(exact).reshape(batch, key.shape[1], -1, head_dim)
        scores = (grouped @ key.to(exact).mT).mul_(self.scale).view(batch, num_heads, queries.shape[-1], key.shape[2])
        rows = queries[None, None, :, None] if queries.ndim == 1 else queries[:, None, :, None]
        return self.modify(scores, rows, torch.arange(key.shape[2], device=self.device)[None, None, None])

    def _keys_at(self, index: Int[Tensor, "#batch #num_heads q_len"]) -> Float[Tensor, "batch heads q_len head_dim"]:
        """The chosen key of each query; one per query head only if the heads choose different keys."""
        key = self.key.detach()
        batch, num_kv_heads, _, head_dim = key.shape
        if index.shape[:2] == (1, 1):
            return key.index_select(2, index[0, 0])
        if index.shape[1] == 1:
            return key.gather(2, index[..., None].expand(batch, num_kv_heads, index.shape[2], head_dim))
        heads = torch.arange(index.shape[1], device=key.device) // (self.shape[1] // num_kv_heads)
        return key.index_select(1, heads).gather(2, index[..., None].expand(batch, index.shape[1], index.shape[2], head_dim))

    def _facts_of(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Entropy, largest logit and visible keys of some rows. Sums are shifted by the row's maximum, so little cancels."""
        largest = logits.amax(-1)
        visible = (logits > _HIDDEN).sum(-1)
        top = largest
        if self.sinks is not None:
            sinks = self.sinks.detach().to(logits.dtype)[:, None].expand(logits.shape[:3])
            top = torch.maximum(top, sinks)
        top = top.masked_fill(top == -torch.inf, 0.0)
        shifted = logits.sub_(top[..., None]).clamp_min_(_FLOOR)
        weights = shifted.exp()
        keys = weights.sum(-1)
        total = keys if self.sinks is None else keys + torch.exp(sinks - top)
        moment = shifted.mul_(weights).sum(-1)
        entropy = (total.log() * keys - moment) / total
        return torch.where(total > 0, entropy, 0.0).float(), largest.float(), visible
