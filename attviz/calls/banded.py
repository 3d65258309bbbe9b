"""Calls from which only the diagonal can be read: banded and blocked attention, and registered layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attviz.calls.call import AttentionCall
from attviz.calls.deferred import Deferred
from attviz.errors import ReadingError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class DiagonalCall(AttentionCall):
    """A softmax of which only the position of the diagonal is known.

    Attributes:
        diagonal: Weight of each query on its own key.
        scores: The own scores that went into the softmax, or the mask added to them: shows which queries are padding. None if
            unknown.
    """

    __slots__ = ("diagonal", "scores")

    def __init__(
        self, operator: str, diagonal: Float[Tensor, "batch num_heads q_len"], scores: Float[Tensor, "batch num_heads q_len"] | None = None
    ) -> None:
        super().__init__(operator)
        self.diagonal, self.scores = diagonal, scores

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(batch, num_heads, q_len, kv_len)``."""
        batch, num_heads, q_len = self.diagonal.shape
        return batch, num_heads, q_len, q_len

    @property
    def device(self) -> torch.device:
        """Where the diagonal is."""
        return self.diagonal.device

    def defer(self) -> Deferred:
        """The diagonal, copied because it is a view of the weights."""
        return Deferred(self.diagonal.detach().to(torch.float32, copy=True))

    def own(self, offset: int = 0) -> Float[Tensor, "batch num_heads q_len"]:
        """The diagonal; other offsets cannot be read."""
        if offset:
            raise self._only_the_diagonal()
        return self.diagonal.detach().to(torch.float32, copy=True)

    def rows(self, queries: Int[Tensor, "*batch n"]) -> Float[Tensor, "batch num_heads n kv_len"]:
        """Rows cannot be read."""
        raise self._only_the_diagonal()

    def at(self, index: Int[Tensor, "#batch #num_heads q_len"], *, bounded: bool = False) -> Float[Tensor, "batch num_heads q_len"]:
        """Single weights cannot be read."""
        raise self._only_the_diagonal()

    def _only_the_diagonal(self) -> ReadingError:
        return self.cannot("anything but the diagonal", "its softmax is banded, blocked or of a registered layout, not queries by keys")
