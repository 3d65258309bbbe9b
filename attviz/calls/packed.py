"""Calls of FlashAttention, dense or with several texts packed into one row: windows, soft caps, ALiBi and sinks, aligned bottom right."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from attviz.calls.call import RowFacts
from attviz.calls.deferred import Deferred
from attviz.calls.scores import ScoreCall
from attviz.calls.trust import known, settled
from attviz.kernels import diagonal_from_qk, on_gpu, rows_of_logsumexp, summary_from_qk, weights_at_keys
from attviz.kernels.qk import QkOptions

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Alignment(NamedTuple):
    """The own key of each query, and the bounds of its text's keys; broadcastable to ``[batch, 1, q_len]``."""

    own: Int[Tensor, "#batch 1 q_len"]
    first: Int[Tensor, "#batch 1 q_len"] | None
    end: Int[Tensor, "#batch 1 q_len"] | None


class PackedCall(ScoreCall):
    """Query, key and the rules passed to FlashAttention.

    Attributes:
        options: The rules, as options of :func:`attviz.kernels.diagonal_from_qk`.
    """

    __slots__ = ("_aligned", "cu_seqlens", "options")

    def __init__(
        self,
        operator: str,
        query: Float[Tensor, "batch num_heads q_len head_dim"],
        key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
        logsumexp: Tensor | None,
        options: QkOptions,
    ) -> None:
        scale = options.get("scale")
        assert scale is not None
        self.operator, self.query, self.key, self.logsumexp, self.scale = operator, query, key, logsumexp, scale
        self.options, self.sinks, self._rows_lse = options, options.get("sinks"), None
        self.cu_seqlens = options.get("cu_seqlens_q")
        self._aligned: Alignment | None = None
        self.kv_offset = 0 if self.cu_seqlens is not None else key.shape[2] - query.shape[2]

    # ---- the diagonal

    def defer(self) -> Deferred:
        """The diagonal, from the kernel's log-sum-exp if that is known to be right."""
        return Deferred(self.diagonal(), bounded=True)

    def diagonal(self) -> Float[Tensor, "batch num_heads q_len"]:
        """The diagonal from the kernel's log-sum-exp, if it has one. The first call shows whether that includes the sinks."""
        query = self.query

        def by_hand() -> Tensor:
            return diagonal_from_qk(query, self.key, **self.options)

        if self.logsumexp is None:
            return by_hand()
        if self.sinks is None:
            return settled(self.operator, query, by_hand, lambda: self._own(None))
        return settled(f"{self.operator} with sinks", query, by_hand, lambda: self._own(None), lambda: self._own(self.sinks))

    def _own(self, sinks: Tensor | None) -> Tensor:
        """The diagonal from the kernel's own log-sum-exp, which includes every mask; the bias is 0 at distance 0."""
        return self._in_one_launch(self._logsumexp_rows(), sinks)

    def _in_one_launch(
        self, logsumexp: Tensor, sinks: Tensor | None = None, index: Tensor | None = None
    ) -> Float[Tensor, "batch num_heads q_len"]:
        """Weights on the own keys, or on those of an index; NaN after the last text and outside the own text."""
        left, right = self.options.get("window_size", (-1, -1))
        assert isinstance(self.kv_offset, int)
        return weights_at_keys(
            self.query.detach(), self.key.detach(), logsumexp, scale=self.scale, kv_offset=self.kv_offset, sinks=sinks, index=index,
            softcap=self.options.get("softcap", 0.0), window_size=(left, 0 if self.options.get("is_causal") else right),
            cu_seqlens=self._bounds(),
        )  # fmt: skip

    def _bounds(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Where the packed texts begin, among the queries and among the keys."""
        starts, ends = self.cu_seqlens, self.options.get("cu_seqlens_k")
        return (None, None) if starts is None else (starts, starts if ends is None else ends)

    def _logsumexp_rows(self) -> Tensor:
        """The kernel's log-sum-exp as the launch takes it: all rows, or a padded row per text (flash-attn before 2.7)."""
        lse, starts = self.logsumexp, self.cu_seqlens
        assert lse is not None
        of_texts = starts is not None and lse.ndim == 3 and lse.shape[:2] == (starts.numel() - 1, self.query.shape[1])
        return lse if of_texts else rows_of_logsumexp(lse, *self.query.shape[:3])

    def _rows_of_kernel(self) -> Float[Tensor, "batch num_heads q_len"]:
        lse, starts = self.logsumexp, self.cu_seqlens
        assert lse is not None
        if starts is not None and lse.ndim == 3 and lse.shape[0] == starts.numel() - 1:  # a padded row of each text: flash-attn to 2.6
            positions, text = self._texts()
            lse = lse[text, :, (positions - starts[text]).clamp(0, lse.shape[2] - 1)].T[None]
        return rows_of_logsumexp(lse, *self.query.shape[:3])

    # ---- answers

    def own_keys(self) -> Int[Tensor, "#batch 1 q_len"]:
        """The key that is each query's own."""
        return self._alignment().own

    def pairs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key, log-sum-exp of the rows and what is added to the scaled scores."""
        if self.options.get("softcap"):
            raise self.cannot("QueryKey", "its scores are capped, so they are not a product plus a bias")
        return super().pairs()

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Weight of each query on the key of its own choice; NaN where the index lies outside the keys."""
        if on_gpu(self.query) and self._masked_keys() is None and (bounded or self.cu_seqlens is None):
            lse, slopes = self.denominator(), self.options.get("alibi_slopes")
            if slopes is not None:  # what ALiBi takes off the score of this one key may as well be added here: no keys are gathered
                lse = lse + slopes.float().reshape(-1, lse.shape[1], 1) * (index - self._alignment().own).abs()
            return self._in_one_launch(lse, index=index)
        weights = super().at(index)
        aligned = self._alignment()
        if bounded and aligned.first is not None and aligned.end is not None:
            weights = torch.where((index >= aligned.first) & (index < aligned.end), weights, torch.nan)
        return weights if self.cu_seqlens is None else torch.where(self._in_a_text(), weights, torch.nan)

    def summarise(self) -> RowFacts:
        """Entropy, largest logit and number of visible keys of each row."""
        if self._masked_keys() is not None:
            return super().summarise()
        rows = summary_from_qk(self.query, self.key, **self.options)
        assert rows.row_entropy is not None
        return RowFacts(rows.row_entropy, rows.row_max_logit, self.visible())

    def pass_options(self) -> QkOptions | None:
        """The rules for a pass over all pairs on a GPU; the log-sum-exp holds the sinks."""
        return {**self.options, "sinks": None} if on_gpu(self.query) else None

    # ---- rules

    def denominator(self) -> Float[Tensor, "batch num_heads q_len"]:
        """Log-sum-exp of each row, sinks included: the kernel's if its first call showed what it includes, else from query and key."""
        if self._rows_lse is None:
            if self._masked_keys() is not None:
                return super().denominator()
            if self.logsumexp is not None and (given := self._given_denominator()) is not None:
                self._rows_lse = given
                return given
            self._rows_lse = summary_from_qk(self.query, self.key, **self.options).logsumexp
            assert self._rows_lse is not None
        return self._rows_lse

    def _given_denominator(self) -> Float[Tensor, "batch num_heads q_len"] | None:
        if self.sinks is None:
            return self._rows_of_kernel() if known(self.operator, self.query) else None
        if known(f"{self.operator} with sinks (1)", self.query):
            return self._rows_of_kernel()
        if known(f"{self.operator} with sinks", self.query):
            return torch.logaddexp(self._rows_of_kernel(), self.sinks.float()[:, None])
        return None

    def modify(self, scores: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
        """Cap the scores, add ALiBi, and hide keys that are in the future, outside the window or in another text."""
        aligned, options = self._alignment(), self.options
        if softcap := options.get("softcap", 0.0):
            scores = scores.div_(softcap).tanh_().mul_(softcap)
        distance = keys - _of_rows(aligned.own, rows)
        if (slopes := options.get("alibi_slopes")) is not None:
            scores = scores - slopes.to(scores.dtype).reshape(-1, scores.shape[1], 1, 1) * distance.abs()
        left, right = options.get("window_size", (-1, -1))
        right = 0 if options.get("is_causal") else right
        hidden = distance > right if right >= 0 else torch.zeros_like(distance, dtype=torch.bool)
        if left >= 0:
            hidden = hidden | (distance < -left)
        if aligned.first is not None and aligned.end is not None:
            hidden = hidden | (keys < _of_rows(aligned.first, rows)) | (keys >= _of_rows(aligned.end, rows))
        masked = self._masked_keys()
        if masked is not None:
            texts = torch.arange(len(masked), device=masked.device)[:, None, None, None]
            hidden = hidden | masked[texts, keys]
        return scores.masked_fill_(hidden, -torch.inf)

    def _masked_keys(self) -> Bool[Tensor, "batch kv_len"] | None:
        mask = self.options.get("key_mask")
        return None if mask is None else mask.logical_not()

    # ---- packed texts

    def _texts(self) -> tuple[Int[Tensor, " total"], Int[Tensor, " total"]]:
        """Position of each query in the row, and the number of its text."""
        starts = self.cu_seqlens
        assert starts is not None
        positions = torch.arange(self.query.shape[2], device=self.query.device)
        text = torch.searchsorted(starts[1:].contiguous(), positions.to(starts.dtype), right=True)
        return positions, text.clamp(max=max(starts.numel() - 2, 0))

    def _alignment(self) -> Alignment:
        if self._aligned is None:
            if self.cu_seqlens is None:
                assert isinstance(self.kv_offset, int)
                own = torch.arange(self.query.shape[2], device=self.query.device) + self.kv_offset
                self._aligned = Alignment(own[None, None], None, None)
            else:
                starts, given = self.cu_seqlens, self.options.get("cu_seqlens_k")
                ends = starts if given is None else given
                positions, text = self._texts()
                own = positions - starts[text + 1] + ends[text + 1]
                self._aligned = Alignment(*(bound.long()[None, None] for bound in (own, ends[text], ends[text + 1])))
        return self._aligned

    def _in_a_text(self) -> Bool[Tensor, " total"]:
        """Which tokens lie before the end of the last text; what a kernel writes after it is undefined."""
        assert self.cu_seqlens is not None
        return torch.arange(self.query.shape[2], device=self.query.device) < self.cu_seqlens[-1]

    def visible(self) -> Int[Tensor, "#batch #num_heads q_len"]:
        """Number of keys that each query can see, from the rules alone."""
        if self._masked_keys() is not None:
            return super().visible()
        own, first, end = self._alignment()
        left, right = self.options.get("window_size", (-1, -1))
        right = 0 if self.options.get("is_causal") else right
        first = torch.zeros_like(own) if first is None else first
        end = torch.full_like(own, self.key.shape[2]) if end is None else end
        low = first if left < 0 else torch.maximum(first, own - left)
        high = end if right < 0 else torch.minimum(end, own + right + 1)
        return (high - low).clamp(min=0)


def _of_rows(values: Int[Tensor, "1 1 q_len"], rows: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    return values[0, 0][rows]
