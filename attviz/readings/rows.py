"""Whole rows of chosen queries, and the strongest keys of every query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attviz.errors import ArgumentError, ReadingError
from attviz.readings.protocol import Price, Reading, Tokens, whole_number


@dataclass(frozen=True, eq=False)
class Rows(Reading):
    """Whole rows of the attention matrix: ``Rows(-1)`` is what the last token looks at, which in a decode step is everything.

    Attributes:
        queries: Which queries; negative ones count from the last token of the text that is not padding.
        max_bytes: A layer whose rows would take more is refused with the reason.
    """

    queries: int | Sequence[int]
    max_bytes: int = 1 << 30
    price: ClassVar[Price] = "rows"
    per: ClassVar = None
    of_cross = True

    def __post_init__(self) -> None:
        chosen = (self.queries,) if isinstance(self.queries, int) else tuple(self.queries)
        if not chosen or not all(isinstance(query, int) and not isinstance(query, bool) for query in chosen):
            raise ArgumentError(f"Rows: queries must be one or more integers, got {self.queries!r}.")
        object.__setattr__(self, "queries", chosen)
        super().__post_init__()

    def label(self) -> str:
        """The default name, as the reading is written."""
        assert not isinstance(self.queries, int)
        return f"rows({', '.join(map(str, self.queries))})" if len(self.queries) < 5 else f"rows({len(self.queries)} queries)"

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, n, kv_len]``; NaN where a text has no such token."""
        assert not isinstance(self.queries, int)
        batch, num_heads, q_len, kv_len = call.shape
        size = 4 * batch * num_heads * len(self.queries) * kv_len
        if size > self.max_bytes:
            raise ReadingError(
                f"{len(self.queries)} rows of {kv_len} keys for {batch} texts and {num_heads} heads are {size / 2**30:.2f} GiB a layer, "
                f"and max_bytes is {self.max_bytes / 2**30:.2f} GiB. Ask for fewer rows, or for TopKeys, Received or Segments"
            )
        far = [query for query in self.queries if not -q_len <= query < q_len]
        if far:
            raise ReadingError(f"query {far[0]} was requested, but the forward has {q_len} queries")
        chosen = torch.tensor(self.queries, device=call.device)
        if tokens.real is None or tokens.real.shape != (batch, q_len):
            return call.rows(torch.where(chosen < 0, chosen + q_len, chosen))  # type: ignore[no-any-return]
        real = tokens.real.to(call.device)
        last = (real * torch.arange(1, q_len + 1, device=call.device)).amax(1, keepdim=True)  # one behind the last real token
        chosen = torch.where(chosen < 0, chosen + last, chosen)
        there = (chosen >= 0) & real.gather(1, chosen.clamp(0, q_len - 1))
        return torch.where(there[:, None, :, None], call.rows(chosen.clamp(0, q_len - 1)), torch.nan)


@dataclass(frozen=True, eq=False)
class TopKeys(Reading):
    """The ``k`` strongest keys of each query: ``"<name>.weights"`` and ``"<name>.index"``, both ``[batch, num_heads, q_len, k]``.

    Attributes:
        k: How many; if a row has fewer keys, the rest has weight 0 and index -1.
    """

    k: int
    price: ClassVar[Price] = "pass"
    of_cross = True

    def __post_init__(self) -> None:
        whole_number("TopKeys", "k", self.k, 1)
        super().__post_init__()

    def label(self) -> str:
        """The default name, as the reading is written."""
        return f"top_keys({self.k})"

    def read(self, call: Any, tokens: Tokens) -> Mapping[str, Tensor]:
        """Weights and indices, strongest first."""
        count = min(self.k, call.shape[3])
        found = [block.topk(count, -1) for _, block in call.blocks()]
        weights, index = torch.cat([part.values for part in found], -2), torch.cat([part.indices for part in found], -2)
        index = torch.where(weights > 0, index, -1)
        missing = (0, self.k - count)
        return {
            "weights": torch.nn.functional.pad(weights, missing),
            "index": torch.nn.functional.pad(index, missing, value=-1),
        }
