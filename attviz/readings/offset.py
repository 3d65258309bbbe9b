"""Weights at a fixed distance from the query's own key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from attviz.errors import ArgumentError
from attviz.readings.protocol import Reading, Tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Own(Reading):
    """``A[i, i]``, the weight of each token on itself: ``cap.diagonal`` as a reading."""

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        return call.own(0)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Offset(Reading):
    """``A[i, i + n]``: -1 is the previous token, +1 the next. NaN if there is no such key, 0 if it is masked.

    Attributes:
        n: Distance from the own key. On repeated random tokens of period ``L``, ``-L`` finds duplicate-token heads and ``-(L - 1)``
            induction heads (Olsson et al., arXiv:2209.11895).
    """

    n: int
    price: ClassVar = "gathered"

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or isinstance(self.n, bool):
            raise ArgumentError(f"Offset: n must be an integer, got {self.n!r}.")
        super().__post_init__()

    def label(self) -> str:
        """The default name, as the reading is written."""
        return f"offset({self.n})"

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        return call.own(self.n)  # type: ignore[no-any-return]
