"""One number per row: its entropy, its largest logit, how many keys it can see, how far it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attviz.errors import ArgumentError, ReadingError
from attviz.readings.protocol import Price, Reading, Tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class RowEntropy(Reading):
    """``-sum_j A_ij log A_ij`` of each row, in nats; it collapses before many training runs diverge (Zhai et al., arXiv:2303.06296)."""

    price: ClassVar[Price] = "pass"
    of_cross = True
    unit: ClassVar[str] = "nats"

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        return call.summary().entropy  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxLogit(Reading):
    """Largest ``s_ij`` of each row, after scale, soft cap and bias: what goes into the softmax.

    Runs that clip it use 100 (arXiv:2507.20534). Other tools report it before the bias, or before the scale.
    """

    price: ClassVar[Price] = "pass"
    of_cross = True
    unit: ClassVar[str] = "logit"

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        largest = call.summary().max_logit
        if largest is None:
            raise ReadingError(f"{call.operator} exposes the weights of its rows, but not the logits")
        return largest  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, eq=False)
class Visible(Reading):
    """Number of keys that each query can see; its inverse is the weight of each key under uniform attention."""

    price: ClassVar[Price] = "pass"
    of_cross = True
    unit: ClassVar[str] = "keys"

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        return call.visible().expand(call.shape[:3]).float()  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Distance(Reading):
    """Mean distance between a query and the keys it looks at, in tokens; for image patches in two dimensions, in patches.

    As in Dosovitskiy et al. (arXiv:2010.11929), figure 7.

    Attributes:
        grid: (rows, columns) of the patches, which are the last tokens of the row. Tokens before them ([CLS], registers) are NaN as
            queries and left out as keys.
    """

    grid: tuple[int, int] | None = None
    price: ClassVar[Price] = "pass"
    unit: ClassVar[str] = "tokens"

    def __post_init__(self) -> None:
        grid = self.grid
        if grid is not None and not (isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(n, int) and n > 0 for n in grid)):
            raise ArgumentError(f"Distance: grid must be (rows, columns) of the patches, got {grid!r}.")
        super().__post_init__()

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        if self.grid is not None:
            return _between_patches(self.grid, call)
        return call.within()[..., 1].clone()  # type: ignore[no-any-return]


def _between_patches(grid: tuple[int, int], call: Any) -> Tensor:
    height, width = grid
    _, _, q_len, kv_len = call.shape
    if q_len != kv_len or height * width > kv_len:
        raise ReadingError(f"a grid of {height} x {width} patches does not fit {q_len} queries and {kv_len} keys")
    before = kv_len - height * width
    patch = torch.arange(height * width, device=call.device)
    at = torch.stack([patch // width, patch % width], -1).float()
    parts = []
    for span, block in call.blocks():
        queries = (torch.arange(span.start, span.stop, device=call.device) - before).clamp(min=0)
        patches = block[..., before:]
        parts.append((patches * torch.cdist(at[queries], at)).sum(-1) / patches.sum(-1).clamp_min(1e-30))
    found = torch.cat(parts, -1)
    return torch.where(torch.arange(q_len, device=call.device) >= before, found, torch.nan)
