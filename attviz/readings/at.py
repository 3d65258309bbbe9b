"""Weights on a key chosen for each query: given explicitly, or by an earlier occurrence of its token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attviz.errors import ArgumentError, ReadingError
from attviz.readings.protocol import NO_KEY_IDS, Reading, Tokens


@dataclass(frozen=True, eq=False)
class At(Reading):
    """``A[i, index_i]``; an index of -1 yields NaN.

    Attributes:
        index: Key of each query, ``[batch, q_len]`` or ``[batch, num_heads, q_len]``, or a function of the :class:`Tokens` that returns it.
    """

    index: Tensor | Callable[[Tokens], Tensor]
    of_cross = True

    def __post_init__(self) -> None:
        index = self.index
        if not callable(index) and not (isinstance(index, Tensor) and index.ndim in (2, 3) and not index.is_floating_point()):
            raise ArgumentError("At: index must be a tensor of whole numbers, [batch, q_len] or [batch, num_heads, q_len], or a function.")
        super().__post_init__()

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        index = self.index if isinstance(self.index, Tensor) else self.index(tokens)
        return _weight_at(call, index)


@dataclass(frozen=True, kw_only=True, eq=False)
class Duplicate(Reading):
    """Weight on the last earlier occurrence of the same token; NaN at a first occurrence. High in duplicate-token heads."""

    def check(self, model: nn.Module, has_ids: bool) -> None:
        """Needs token ids."""
        _needs_ids(self, has_ids)

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        return _weight_at(call, _previous(self, tokens, call))


@dataclass(frozen=True, kw_only=True, eq=False)
class Induction(Reading):
    """Weight on the key after the last earlier occurrence of the same token; NaN at a first occurrence.

    Induction heads (Olsson et al., arXiv:2209.11895) look there to repeat what followed the last time.
    """

    def check(self, model: nn.Module, has_ids: bool) -> None:
        """Needs token ids."""
        _needs_ids(self, has_ids)

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        previous = _previous(self, tokens, call)
        return _weight_at(call, torch.where(previous < 0, -1, previous + 1))


def _weight_at(call: Any, index: Tensor) -> Tensor:
    batch, num_heads, q_len, _ = call.shape
    given = tuple(index.shape)
    index = index.to(call.device)
    index = index[:, None] if index.ndim == 2 else index
    if index.ndim != 3 or any(size not in (1, wanted) for size, wanted in zip(index.shape[:2], (batch, num_heads), strict=True)):
        raise ReadingError(f"its index of shape {given} does not fit batch={batch} num_heads={num_heads} q_len={q_len}")
    if index.shape[2] != q_len:
        raise ReadingError(f"its index of shape {given} does not fit batch={batch} num_heads={num_heads} q_len={q_len}")
    return call.at(index)  # type: ignore[no-any-return]


def _previous(reading: Reading, tokens: Tokens, call: Any) -> Tensor:
    """Key of the last earlier occurrence of each query's token."""
    previous = tokens.previous
    if previous is None:
        raise ReadingError(NO_KEY_IDS)
    q_len, kv_len = call.shape[2:]
    if previous.shape[1] == q_len:
        return previous
    if isinstance(tokens.past, Tensor) or previous.shape[1] < tokens.past + q_len or previous.shape[1] > kv_len:
        raise ReadingError(f"its {previous.shape[1]} known keys do not fit {kv_len} keys of {q_len} queries")
    return previous[:, tokens.past : tokens.past + q_len]


def _needs_ids(reading: Reading, has_ids: bool) -> None:
    if not has_ids:
        raise ArgumentError(
            f"{type(reading).__name__}: compares token ids, which this model's forward does not take. Pass them: "
            "attviz.capture(model, read=..., token_ids=ids)."
        )
