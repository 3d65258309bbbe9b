"""The diagonal of one call, half computed: what needs the operator's tensors is done, the rest waits for the first read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attviz.kernels import weights_from_scores

if TYPE_CHECKING:
    from jaxtyping import Float

# A larger log-sum-exp is not kept: made before its layer's output, it would sit between the large blocks of the C allocator, which grew by
# 30 MB at BERT-base 1 x 512 and held nothing.
_DEFERRED = 1024


class Deferred:
    """A finished diagonal, or what is needed to finish it: at most two numbers per query and head, never a view of an activation."""

    __slots__ = ("_bias", "_bounded", "_diagonal", "_kv_len", "_logs", "_logsumexp", "_scale", "_scores")

    _scores: Tensor
    _logsumexp: Tensor
    _scale: float
    _bias: Tensor | None
    _kv_len: int

    def __init__(self, diagonal: Tensor | None = None, bounded: bool = False) -> None:
        self._diagonal, self._bounded = diagonal, bounded  # bounded: in [0, 1] already, so reading it launches nothing
        self._logs: Tensor | None = None  # logarithms of the weights

    @classmethod
    def of_scores(cls, scores: Tensor, logsumexp: Tensor, scale: float, bias: Tensor | None, kv_len: int) -> Deferred:
        """The own scores before the scale, the log-sum-exp of the rows and what is added to the own scores (a copy)."""
        deferred = cls()
        if scores.numel() <= _DEFERRED:
            deferred._scores, deferred._logsumexp, deferred._scale, deferred._bias = scores, logsumexp, scale, bias
            deferred._kv_len = kv_len
        elif bias is None:  # so no row is masked as a whole, and one number says it all
            deferred._logs = scores.mul_(scale).sub_(logsumexp)
        else:
            deferred._diagonal = weights_from_scores(scores, logsumexp, scale, bias, kv_len=kv_len)
        return deferred

    @property
    def added(self) -> Tensor | None:
        """The copy of what is added to the own scores, if still held."""
        return getattr(self, "_bias", None)

    @torch.no_grad()
    def finish(self) -> Float[Tensor, "batch num_heads q_len"]:
        """Probabilities in [0, 1], float32."""
        if self._diagonal is not None and self._bounded and not self._diagonal.is_inference():
            return self._diagonal
        if self._diagonal is not None:
            return self._diagonal.clamp(0.0, 1.0)  # not in place: it may be an inference tensor
        if self._logs is not None:
            return self._logs.exp().clamp(0.0, 1.0).float()
        return weights_from_scores(self._scores, self._logsumexp, self._scale, self._bias, kv_len=self._kv_len)
