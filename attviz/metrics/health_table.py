"""The result of AttentionHealth."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attviz.errors import ArgumentError

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = ("row_entropy", "min_row_entropy", "max_logit", "first_token", "diagonal")


class HealthTable(NamedTuple):
    """One number per layer and head, float64; NaN where nothing was seen.

    Attributes:
        layers: Name of each layer; None if no name can be trusted.
        rows: Attention rows read.
        row_entropy: Mean of ``-sum_j A_ij log A_ij``, nats.
        min_row_entropy: Smallest among the rows that see more than one key.
        max_logit: Largest ``s_ij``; NaN where the model exposes weights only.
        first_token: Mean weight on the first token (an attention sink shows here).
        diagonal: Mean self-attention.
        faults: Rows at real tokens with a NaN or infinite value; left out of everything else.
    """

    layers: tuple[str | None, ...]
    rows: Int[Tensor, "num_layers ..."]
    row_entropy: Float[Tensor, "num_layers ..."]
    min_row_entropy: Float[Tensor, "num_layers ..."]
    max_logit: Float[Tensor, "num_layers ..."]
    first_token: Float[Tensor, "num_layers ..."]
    diagonal: Float[Tensor, "num_layers ..."]
    faults: Int[Tensor, "num_layers ..."]

    def per_layer(self) -> HealthTable:
        """Pool the heads: means weighted by rows, extremes of extremes; each quantity ``[num_layers]``."""
        if self.rows.ndim == 1:
            return self

        def mean(value: Tensor) -> Tensor:
            return (value.nan_to_num(0) * self.rows).sum(1) / self.rows.sum(1)

        def extreme(value: Tensor, fill: float) -> Tensor:
            filled = value.nan_to_num(fill)
            found = filled.amax(1) if fill < 0 else filled.amin(1)
            return torch.where(found == fill, torch.nan, found)

        return HealthTable(
            self.layers,
            self.rows.sum(1),
            mean(self.row_entropy),
            extreme(self.min_row_entropy, torch.inf),
            extreme(self.max_logit, -torch.inf),
            mean(self.first_token),
            mean(self.diagonal),
            self.faults.sum(1),
        )

    def dormant(self, weight: float = 0.9) -> Float[Tensor, " num_layers"]:
        """Share of a layer's heads that put more than ``weight`` of their attention on the first token (arXiv:2410.13835)."""
        if self.rows.ndim == 1:
            raise ArgumentError("HealthTable.dormant: per_layer() has pooled the heads that this counts. Call it on the table per head.")
        seen = ~self.first_token.isnan()
        return (self.first_token > weight).sum(1) / seen.sum(1)

    def to_pandas(self) -> pd.DataFrame:
        """One row per head (columns ``layer, layer_index, head`` and the quantities), or per layer after ``per_layer()``."""
        import pandas as pd

        heads = self.rows.shape[1] if self.rows.ndim == 2 else 1
        place = torch.cartesian_prod(torch.arange(len(self.layers)), torch.arange(heads)).reshape(-1, 2)
        frame = pd.DataFrame({"layer": [self.layers[index] for index in place[:, 0].tolist()], "layer_index": place[:, 0].numpy()})
        if self.rows.ndim == 2:
            frame["head"] = place[:, 1].numpy()
        for name in ("rows", *QUANTITIES, "faults"):
            frame[name] = getattr(self, name).flatten().cpu().numpy()
        return frame
