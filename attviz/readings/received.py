"""What each key receives from all queries together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attviz.readings.protocol import Price, Reading, Tokens


@dataclass(frozen=True, eq=False)
class Received(Reading):
    """Column sums ``sum_i A_ij`` over the queries that are not padding; NaN at padding keys.

    Attributes:
        mean: Divide by the number of queries that can see the key, so that the last keys of a causal text compare with the first.
    """

    mean: bool = False
    price: ClassVar[Price] = "pass"
    per: ClassVar = None
    of_cross = True

    def label(self) -> str:
        """The default name, as the reading is written."""
        return "received(mean)" if self.mean else "received"

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, kv_len]``."""
        batch, _, q_len, kv_len = call.shape
        real = tokens.real if tokens.real is not None and tokens.real.shape == (batch, q_len) else None
        found, seen = call.received(None if real is None else real.to(call.device))
        found = found / seen if self.mean else found
        if tokens.real_keys is not None and tokens.real_keys.shape == (batch, kv_len):
            found = torch.where(tokens.real_keys.to(found.device)[:, None], found, torch.nan)
        return found  # type: ignore[no-any-return]
