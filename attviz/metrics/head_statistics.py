"""How much each head attends to each token's own position, over a whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attviz.metrics._streaming.feeds import LayerValues
from attviz.metrics._streaming.moments import Cells, Moments
from attviz.metrics._streaming.shapes import Layout
from attviz.metrics._streaming.states import LayerInfo, State
from attviz.metrics._streaming.streaming import StreamingMetric

if TYPE_CHECKING:
    import pandas as pd


class HeadTable(NamedTuple):
    """One number per layer and head, float64; NaN where a head saw no token, or a layer has fewer heads than another.

    Attributes:
        layers: Name of each layer; None if no name can be trusted.
        count: Tokens seen.
        mean: Mean self-attention.
        std: Standard deviation over the tokens (``correction=1``); NaN for fewer than two.
        max: Largest value.
        min: Smallest value.
        faults: Values at real tokens that are NaN or outside [0, 1] (for a reading in another unit: infinite). They are left out of the
            statistics and mean that something is wrong.
    """

    layers: tuple[str | None, ...]
    count: Int[Tensor, "num_layers num_heads"]  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a table
    mean: Float[Tensor, "num_layers num_heads"]
    std: Float[Tensor, "num_layers num_heads"]
    max: Float[Tensor, "num_layers num_heads"]
    min: Float[Tensor, "num_layers num_heads"]
    faults: Int[Tensor, "num_layers num_heads"]

    def to_pandas(self) -> pd.DataFrame:
        """One row per head (columns ``layer, layer_index, head`` and the statistics). Copies to the CPU."""
        import pandas as pd

        num_layers, num_heads = self.mean.shape
        place = torch.cartesian_prod(torch.arange(num_layers), torch.arange(num_heads)).reshape(-1, 2)
        columns = {name: getattr(self, name).flatten().cpu().numpy() for name in self._fields[1:]}
        names = [self.layers[index] for index in place[:, 0].tolist()]
        return pd.DataFrame({"layer": names, "layer_index": place[:, 0].numpy(), "head": place[:, 1].numpy(), **columns})


class HeadStatistics(StreamingMetric):
    """Count, mean, standard deviation and extremes per layer and head, of the diagonal or a reading, over all seen since ``reset``.

    Memory: 48 bytes per head. Padding and the tokens of ``exclude_ids`` are left out.

    Args:
        reading: Which number of each token: the diagonal, a reading such as ``attviz.readings.Offset(-1)``, or the name of one in the
            capture's ``read=``.
        exclude_ids: Vocabulary ids to leave out, such as ``tokenizer.all_special_ids``.
        **kwargs: Passed to ``torchmetrics.Metric``, such as ``process_group``.

    Example:
        >>> metric = HeadStatistics()
        >>> metric.update(torch.tensor([[[[0.25, 0.75], [1.0, 1.0]]]]))  # one layer, one text, two heads, two tokens
        >>> metric.compute().mean
        tensor([[0.5000, 1.0000]], dtype=torch.float64)
    """

    def compute(self) -> HeadTable:
        """Compute the statistics so far, over all processes.

        Raises:
            EmptyMetricError: If nothing was seen yet.
        """
        self._require_data()
        layers = sorted(self._state.layers)
        samples = [self._state.moments[f"diagonal/{index}"] for index in layers]
        width = max(sample.mean.shape[0] for sample in samples)
        device = samples[0].mean.device

        def table(rows: list[Tensor], fill: float) -> Tensor:
            return torch.stack([torch.nn.functional.pad(row.to(device), (0, width - len(row)), value=fill) for row in rows])

        return HeadTable(
            tuple(self._state.layers[index].name for index in layers),
            table([sample.count.long() for sample in samples], 0),
            table([sample.seen(sample.mean) for sample in samples], torch.nan),
            table([sample.std() for sample in samples], torch.nan),
            table([sample.seen(sample.max) for sample in samples], torch.nan),
            table([sample.seen(sample.min) for sample in samples], torch.nan),
            table([self._state.sums[f"faults/{index}"] for index in layers], 0),
        )

    def _sample(self, layer: LayerValues) -> State:
        valid = layer.valid(self._excluded_on(layer.values.device))
        return State(
            {layer.index: LayerInfo(layer.num_heads, layer.name)},
            {f"diagonal/{layer.index}": Moments.of(layer.values, valid, (0, 2))},
            {f"faults/{layer.index}": layer.faults()},
        )

    def _layout(self, layers: dict[int, LayerInfo]) -> Layout:
        return Layout(
            {f"diagonal/{index}": Cells((info.num_heads,)) for index, info in layers.items()},
            {f"faults/{index}": (torch.int64, (info.num_heads,)) for index, info in layers.items()},
        )
