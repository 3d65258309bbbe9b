"""The result of VocabularyStatistics: one number per token id, and per layer and head if requested."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attviz.metrics._streaming.states import State

if TYPE_CHECKING:
    import pandas as pd


class VocabularyTable(NamedTuple):
    """Statistics per vocabulary id; NaN where an id was not seen.

    The last axis is the row of ``token_ids``; before it come nothing (``by="model"``), ``num_layers`` (``by="layer"``) or
    ``num_layers, num_heads`` (``by="head"``; layers with fewer heads are filled with NaN and count 0).

    Attributes:
        by: What each table pools.
        layers: Name of each layer.
        token_ids: Vocabulary id of each row.
        count: Values pooled: occurrences, times the heads (``by="layer"``), times the layers (``by="model"``).
        mean: Mean self-attention.
        std: Standard deviation (``correction=1``); NaN for fewer than two values.
        max: Largest value.
        min: Smallest value.
        skipped: Real tokens of each layer that have no row: excluded, outside ``tokens=`` or ``max_tokens=``, or negative.
        faults: NaN and infinite values at real tokens, per layer.
    """

    by: str
    layers: tuple[str | None, ...]
    token_ids: Int[Tensor, " rows"]
    count: Int[Tensor, "*tables rows"]  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a table
    mean: Float[Tensor, "*tables rows"]
    std: Float[Tensor, "*tables rows"]
    max: Float[Tensor, "*tables rows"]
    min: Float[Tensor, "*tables rows"]
    skipped: Int[Tensor, " num_layers"]
    faults: Int[Tensor, " num_layers"]

    @classmethod
    def of(cls, state: State, by: str, token_ids: Tensor) -> VocabularyTable:
        """Lay out the tables of a state."""
        order = sorted(state.layers)
        samples = [state.moments["tokens/model"]] if by == "model" else [state.moments[f"tokens/{index}"] for index in order]
        device = samples[0].mean.device
        width = max(sample.mean.shape[1] for sample in samples)

        def stack(columns: list[Tensor], fill: float) -> Tensor:
            tables = [torch.nn.functional.pad(c.to(device).T, (0, 0, 0, width - c.shape[1]), value=fill) for c in columns]
            whole = torch.stack(tables)  # [tables, columns, rows]
            return whole if by == "head" else whole[0, 0] if by == "model" else whole[:, 0]

        return cls(
            by,
            tuple(state.layers[index].name for index in order),
            token_ids.to(device),
            stack([sample.count.long().expand_as(sample.mean) for sample in samples], 0),
            stack([sample.seen(sample.mean) for sample in samples], torch.nan),
            stack([sample.std() for sample in samples], torch.nan),
            stack([sample.seen(sample.max) for sample in samples], torch.nan),
            stack([sample.seen(sample.min) for sample in samples], torch.nan),
            torch.stack([state.sums[f"skipped/{index}"].to(device) for index in order]),
            torch.stack([state.sums[f"faults/{index}"].to(device).sum() for index in order]),
        )

    def to_pandas(self, tokenizer: Any = None, *, min_count: int = 1, exclude_ids: Collection[int] = ()) -> pd.DataFrame:
        """One row per id that was seen (and per layer and head if the tables have them), highest mean first.

        Args:
            tokenizer: Adds a column ``token`` with its ``convert_ids_to_tokens``.
            min_count: Leave out ids seen less often.
            exclude_ids: Leave out these ids, such as ``tokenizer.all_special_ids``.
        """
        import pandas as pd

        wanted = self.count >= max(min_count, 1)
        if exclude_ids:
            wanted = wanted & ~torch.isin(self.token_ids, torch.tensor(sorted(exclude_ids), device=self.token_ids.device))
        place = wanted.nonzero().cpu()
        ids = self.token_ids.cpu()[place[:, -1]].tolist()
        columns: dict[str, Any] = {"token_id": ids}
        if tokenizer is not None:
            columns["token"] = tokenizer.convert_ids_to_tokens(ids)
        if self.by != "model":
            columns["layer"] = [self.layers[index] for index in place[:, 0].tolist()]
            columns["layer_index"] = place[:, 0].numpy()
        if self.by == "head":
            columns["head"] = place[:, 1].numpy()
        columns |= {name: getattr(self, name)[wanted].cpu().numpy() for name in ("count", "mean", "std", "max", "min")}
        return pd.DataFrame(columns).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
