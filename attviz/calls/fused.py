"""Calls of fused kernels that return the log-sum-exp of their rows: scaled_dot_product_attention on every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attviz.calls.call import AttentionCall, RowFacts
from attviz.calls.deferred import Deferred
from attviz.calls.scores import _HIDDEN, ScoreCall
from attviz.kernels import (
    diagonal_from_qk,
    diagonal_of_bias,
    facts_from_logsumexp,
    on_gpu,
    rows_of_logsumexp,
    self_scores,
    summary_from_qk,
    weights_at_keys,
    weights_from_scores,
)
from attviz.kernels.qk import QkOptions

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

FEW = 1 << 16  # pairs of query and key, up to which a CPU makes their weights in a block sooner than it prepares a pass


class FusedCall(ScoreCall):
    """Query, key and what the kernel returned about its rows.

    Attributes:
        bias: Additive or bool mask as the operator received it, broadcastable to ``[batch, num_heads, q_len, kv_len]``.
        is_causal: The operator masked key ``j > i`` itself (top-left alignment, as torch SDPA does).
    """

    __slots__ = ("bias", "is_causal")

    sinks = None

    def __init__(
        self,
        operator: str,
        query: Float[Tensor, "batch num_heads q_len head_dim"],
        key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
        logsumexp: Float[Tensor, "batch num_heads q_len"] | None = None,
        scale: float = 1.0,
        bias: Tensor | None = None,
        is_causal: bool = False,
        kv_offset: int | Tensor = 0,
    ) -> None:
        self.operator, self.query, self.key, self.logsumexp = operator, query, key, logsumexp
        self.scale, self.bias, self.is_causal, self.kv_offset, self._rows_lse = scale, bias, is_causal, kv_offset, None

    # ---- the diagonal

    def defer(self) -> Deferred:
        """On the CPU, only ``q_i . k_i`` is computed now; elsewhere one launch does everything."""
        offset, query, key, logsumexp, bias = self.kv_offset, self.query, self.key, self.logsumexp, self.bias
        if isinstance(offset, Tensor) or (offset and self.is_causal):  # torch aligns its causal mask top left: the own key is hidden
            return Deferred(self.own())
        if logsumexp is None:
            return Deferred(diagonal_from_qk(query, key, **self._rules(offset)), bounded=True)
        rows = query.shape[:3]
        if logsumexp.shape != rows:
            logsumexp = rows_of_logsumexp(logsumexp, *rows)
        if on_gpu(query):  # where torch would write the product of query and key out
            return Deferred(weights_at_keys(query, key, logsumexp, scale=self.scale, bias=bias, kv_offset=offset), bounded=True)
        added = None if bias is None else diagonal_of_bias(bias, rows[2], offset).clone()
        return Deferred.of_scores(self_scores(query, key, offset), logsumexp, self.scale, added, key.shape[2])

    # ---- answers

    def own(self, offset: int = 0) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key ``offset`` after its own; NaN where there is no such key, 0 where it is hidden."""
        _, _, q_len, kv_len = self.shape
        if isinstance(self.kv_offset, Tensor) or q_len == 0:
            return super().own(offset)
        shift = self.kv_offset + offset
        if on_gpu(self.query):
            return self._in_one_launch(shift=shift)
        low, high = max(0, -shift), min(q_len, kv_len - shift)
        if low >= high:
            return self.query.new_full(self.query.shape[:3], torch.nan, dtype=torch.float32)
        span, bias = slice(low, high), self.bias
        if self.is_causal and shift > 0:
            weights = self.query.new_zeros((*self.query.shape[:2], high - low), dtype=torch.float32)
        else:
            if bias is not None and bias.ndim > 1 and bias.shape[-2] > 1:
                bias = bias[..., span, :]
            added = None if bias is None else diagonal_of_bias(bias, high - low, low + shift)
            scores = self_scores(self.query.detach()[:, :, span], self.key.detach()[:, :, low + shift : high + shift])
            weights = weights_from_scores(scores, self.denominator()[..., span], self.scale, added, kv_len=kv_len)
        return torch.nn.functional.pad(weights, (low, q_len - high), value=torch.nan)

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key of its own choice; NaN where the index lies outside the keys."""
        return self._in_one_launch(index=index) if on_gpu(self.query) else super().at(index, bounded=bounded)

    def _in_one_launch(self, index: Tensor | None = None, shift: int = 0) -> Float[Tensor, "batch num_heads q_len"]:
        """Weights on the keys ``index``, or ``shift`` after the key with the query's number (torch aligns causal masks there)."""
        right = 0 if self.is_causal else -1
        rules = {"scale": self.scale, "bias": self.bias, "index": index, "shift": shift, "window_size": (-1, right)}
        return weights_at_keys(self.query.detach(), self.key.detach(), self.denominator(), **rules)  # type: ignore[arg-type]

    def mass(self, features: Float[Tensor, "*batch kv_len num_features"]) -> Float[Tensor, "batch num_heads q_len num_features"]:
        """Sums over the keys, ``sum_j A_ij features_jf``.

        On the CPU divided by the sum of the weights: the log-sum-exp is rounded, and a mass must not exceed 1 by more than a softmax's.
        """
        if on_gpu(self.query) or self.pass_options() is None:
            return super().mass(features)
        features = features.to(torch.float32)
        found = super().mass(torch.cat([features, features.new_ones((*features.shape[:-1], 1))], -1))
        return _of_softmax(found[..., :-1], found[..., -1:])

    def within(self, reach: int = -1) -> Float[Tensor, "batch num_heads q_len 2"]:
        """Mass on the keys within ``reach`` of the own one, and the sum of their weights times their distance."""
        if on_gpu(self.query):
            return super().within(reach)
        if reach >= 0 or self.pass_options() is None:  # the sum of all weights is not at hand
            return AttentionCall.within(self, reach)
        found = super().within(reach)
        return _of_softmax(found, found[..., :1])

    def summarise(self) -> RowFacts:
        """Entropy, largest logit and number of visible keys, from one pass over query and key that stores no row."""
        if self.shape[3] < self.shape[2]:
            return super().summarise()
        if self._on_cpu_with_logsumexp():
            entropy, largest = facts_from_logsumexp(self.query, self.key, self.denominator(), **self._rules(0))
            return RowFacts(entropy, largest, self.visible())
        rows = summary_from_qk(self.query, self.key, **self._rules(0))
        assert rows.row_entropy is not None
        return RowFacts(rows.row_entropy, rows.row_max_logit, self.visible())

    def hides_previous(self) -> Bool[Tensor, "batch q_len-1"] | None:
        """True where the mask hides key ``i`` from query ``i + 1``."""
        batch, _, q_len, kv_len = self.shape
        if self.bias is None or q_len != kv_len:
            return None
        bias = self.bias if self.bias.ndim < 2 or self.bias.shape[-2] == 1 else self.bias[..., 1:, :]
        before = diagonal_of_bias(bias, q_len - 1)
        hidden = before.logical_not() if before.dtype is torch.bool else before <= torch.finfo(before.dtype).min / 2
        return (hidden.all(1) if hidden.ndim == 3 else hidden).expand(batch, q_len - 1)

    # ---- rules

    def denominator(self) -> Float[Tensor, "batch num_heads q_len"]:
        """Log-sum-exp of each row; the kernel's own if it has one."""
        if self._rows_lse is None:
            if self.logsumexp is not None:
                self._rows_lse = rows_of_logsumexp(self.logsumexp, *self.shape[:3])
            else:
                self._rows_lse = summary_from_qk(self.query, self.key, **self._rules(0)).logsumexp
                assert self._rows_lse is not None
        return self._rows_lse

    def modify(self, scores: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
        """Add the bias and hide what causal attention hides."""
        if self.bias is not None:
            bias = _looked_up(self.bias, rows, keys, self.shape[3])
            scores = scores.masked_fill_(~bias, -torch.inf) if bias.dtype is torch.bool else scores.add_(bias)
        return scores.masked_fill_(keys > rows, -torch.inf) if self.is_causal else scores

    def pass_options(self) -> QkOptions | None:
        """The rules for a pass over all pairs, if the host knows which key is a query's own, and there is one for each query."""
        offset, (_, _, q_len, kv_len) = self.kv_offset, self.shape
        if isinstance(offset, Tensor) or not 0 <= offset <= kv_len - q_len:
            return None
        few = self.query.shape[0] * self.query.shape[1] * q_len * kv_len < FEW
        return self._rules(offset) if on_gpu(self.query) or (self._on_cpu_with_logsumexp() and not few) else None

    def _on_cpu_with_logsumexp(self) -> bool:
        """Whether a pass on the CPU need not sum the rows first, which would make it dearer than blocks of rows."""
        return self.logsumexp is not None and self.query.device.type == "cpu" and not on_gpu(self.query)

    def _rules(self, kv_offset: int) -> QkOptions:
        return {
            "scale": self.scale,
            "bias": self.bias,
            "is_causal": self.is_causal,
            "causal_alignment": "top_left",
            "kv_offset": kv_offset,
        }

    def visible(self) -> Int[Tensor, "#batch #num_heads q_len"]:
        """Number of keys that each query can see, from the mask alone."""
        _, _, q_len, kv_len = self.shape
        rows = torch.arange(q_len, device=self.device)
        keys = torch.arange(kv_len, device=self.device)
        if self.bias is None:
            seen = (rows + 1).clamp(max=kv_len) if self.is_causal else torch.full_like(rows, kv_len)
            return seen[None, None]
        bias = self.bias[(None,) * (4 - self.bias.ndim)]
        counts = []
        for span in self._spans():
            shown = bias if bias.shape[2] == 1 else bias[:, :, span]
            shown = shown if shown.dtype is torch.bool else shown > _HIDDEN
            shown = shown.expand(*shown.shape[:2], span.stop - span.start, kv_len)
            counts.append((shown & (keys <= rows[span, None]) if self.is_causal else shown).sum(-1))
        return torch.cat(counts, -1)


def _of_softmax(sums: Tensor, total: Tensor) -> Tensor:
    """Sums over the keys, divided by that of the weights; 0 for a row that sees no key. NaN stays."""
    return torch.where(total == 0, 0.0, sums / total)


def _looked_up(bias: Tensor, rows: Tensor, keys: Tensor, kv_len: int) -> Tensor:
    """The entries of a bias for some rows and keys, broadcastable to their scores."""
    bias = bias.detach()[(None,) * (4 - bias.ndim)]
    batch, num_heads, q_len, _ = bias.shape
    everything = keys.shape[:3] == (1, 1, 1) and keys.shape[3] == kv_len
    if everything and rows.shape[:2] == (1, 1):
        return bias if q_len == 1 else bias.index_select(2, rows.flatten())
    texts = torch.arange(batch, device=bias.device)[:, None, None, None]
    heads = torch.arange(num_heads, device=bias.device)[None, :, None, None]
    return bias[texts, heads, rows if q_len > 1 else torch.zeros_like(rows), keys if bias.shape[3] > 1 else torch.zeros_like(keys)]
