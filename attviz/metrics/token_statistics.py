"""The aggregates of every token of the current step, built layer by layer."""

from __future__ import annotations

from typing import Any, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from attviz.errors import ArgumentError, MetricError
from attviz.metrics._streaming.feeds import LayerValues
from attviz.metrics._streaming.moments import Cells, Moments
from attviz.metrics._streaming.shapes import Layout
from attviz.metrics._streaming.states import LayerInfo, State
from attviz.metrics._streaming.streaming import StreamingMetric
from attviz.metrics.aggregates import TokenAggregates
from attviz.metrics.entropies import NUM_BINS, EntropyKind, bins, distinct_values


class TokenStatistics(StreamingMetric):
    """Mean, std, max, min, range and entropy of each token over all layers and heads, in O(batch x q_len) memory.

    Equal to ``attviz.metrics.aggregate(cap.diagonal)`` without keeping the diagonals. It holds *one* step: the first layer of the next
    forward starts over. Each process keeps its own tokens, so ``compute`` does not communicate.

    ``kind="table2"`` counts the distinct values within each layer and adds them up: exact unless two layers share a value of a token.
    ``"binned"`` (101 counters per token) and ``"shannon"`` are exact. A reading that is not a probability has no entropy (NaN).

    Args:
        reading: Which number of each token: the diagonal, a reading such as ``attviz.readings.Offset(-1)``, or the name of one in the
            capture's ``read=``.
        kind: Which entropy, as in :func:`attviz.metrics.entropy`.
        correction: As in :func:`attviz.metrics.std`.
        **kwargs: Passed to :class:`StreamingMetric`.

    Example:
        >>> metric = TokenStatistics()
        >>> metric.update(torch.tensor([[[0.5, 1.0]]]), layer_index=0)
        >>> metric.update(torch.tensor([[[0.25, 1.0]]]), layer_index=1)
        >>> metric.compute().mean
        tensor([[0.3750, 1.0000]], dtype=torch.float64)
    """

    def __init__(self, *, kind: EntropyKind = "table2", correction: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kind not in get_args(EntropyKind):
            raise ArgumentError(f"TokenStatistics: kind must be one of {', '.join(map(repr, get_args(EntropyKind)))}, got {kind!r}.")
        if correction < 0:
            raise ArgumentError(f"TokenStatistics: correction must be at least 0, got {correction}.")
        self.kind, self.correction = kind, correction
        self._step: int | None = None

    def compute(self) -> TokenAggregates:
        """Compute the six aggregates of the current step, each ``[batch, q_len]`` in float64; NaN at padding.

        Raises:
            EmptyMetricError: If nothing was seen yet.
        """
        self._require_data()
        sample = self._state.moments["tokens"]
        return TokenAggregates(
            sample.seen(sample.mean),
            sample.std(self.correction),
            sample.seen(sample.max),
            sample.seen(sample.min),
            sample.seen(sample.max - sample.min),
            sample.seen(self._entropy(sample) if self.chosen.probability else torch.full_like(sample.mean, torch.nan)),
        )

    @property
    def faults(self) -> Int[Tensor, "batch q_len"]:
        """Number of values at each real token of the current step that are NaN or outside [0, 1] and so left out."""
        self._require_data()
        return self._state.sums["faults"]

    def _entropy(self, sample: Moments) -> Tensor:
        sums, count = self._state.sums, sample.count.clamp_min(1)
        if self.kind == "table2":
            return sums["surprise"] / sums["distinct"].clamp_min(1)
        if self.kind == "shannon":  # -sum p log p with p = a / S is log S + (sum -a log a) / S
            total = sample.mean * sample.count
            return total.log() + sums["surprise"] / total
        share = sums["bins"] / count.unsqueeze(-1)
        entropy: Tensor = torch.special.entr(share).sum(-1) / (sums["bins"] > 0).sum(-1).clamp_min(1)
        return entropy

    def _check(self, layers: list[LayerValues]) -> None:
        if not layers:
            return
        last = max(self._state.layers, default=-1)
        new_step = layers[0].step != self._step or layers[0].index <= last
        first = layers[0].values.shape if new_step or "tokens" not in self._state.moments else None
        rows, length = (first[0], first[2]) if first is not None else tuple(self._state.moments["tokens"].mean.shape)
        for layer in layers:
            if layer.step != layers[0].step:
                raise MetricError(
                    f"TokenStatistics: fed steps {layers[0].step} and {layer.step} together, but it holds one. Pass one step's records."
                )
            if (layer.values.shape[0], layer.values.shape[2]) != (rows, length):
                raise MetricError(
                    f"TokenStatistics: layer {layer.index} ({layer.name}) has batch={layer.values.shape[0]} "
                    f"q_len={layer.values.shape[2]}, the layers before it batch={rows} q_len={length}: these are not the same tokens. "
                    "Choose layers of one shape with attviz.capture(layers=...). The state is unchanged."
                )
        if not new_step:
            super()._check(layers)
            return
        before, self._state = self._state, State()
        try:
            super()._check(layers)
        except Exception:
            self._state = before
            raise
        self._step = layers[0].step

    def _sample(self, layer: LayerValues) -> State:
        valid = layer.valid(self._excluded_on(layer.values.device))
        return State(
            {layer.index: LayerInfo(layer.num_heads, layer.name)},
            {"tokens": Moments.of(layer.values, valid, (1,))},
            {"faults": layer.broken().sum(1), **self._entropy_sums(layer.values.clamp(0, 1), valid)},
        )

    def _entropy_sums(self, diagonal: Tensor, valid: Tensor) -> dict[str, Tensor]:
        if self.kind == "binned":
            counts = torch.zeros(diagonal.shape[0], diagonal.shape[2], NUM_BINS, dtype=torch.int64, device=diagonal.device)
            return {"bins": counts.scatter_add_(-1, bins(diagonal).transpose(1, 2), valid.transpose(1, 2).long())}
        zeroed = diagonal.where(valid, 0)
        logarithm = zeroed.clamp_min(torch.finfo(zeroed.dtype).tiny).log()  # 0 log tiny = 0; special.entr takes seven times as long
        surprise = -(zeroed * logarithm).sum(1, dtype=torch.float64)
        if self.kind == "shannon":
            return {"surprise": surprise}
        # What does not count becomes one foreign value, -1, which is then taken off the number of distinct values.
        distinct = distinct_values(diagonal.where(valid, -1).transpose(1, 2)) - (~valid).any(1).long()
        return {"surprise": surprise, "distinct": distinct}

    def _layout(self, layers: dict[int, LayerInfo]) -> Layout:
        shape = tuple(self._state.moments["tokens"].mean.shape) if "tokens" in self._state.moments else (0, 0)
        kinds = {
            "table2": {"surprise": (torch.float64, shape), "distinct": (torch.int64, shape)},
            "binned": {"bins": (torch.int64, (*shape, NUM_BINS))},
            "shannon": {"surprise": (torch.float64, shape)},
        }
        return Layout({"tokens": Cells(shape)} if layers else {}, {"faults": (torch.int64, shape), **kinds[self.kind]} if layers else {})

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "kind": self.kind, "correction": self.correction}

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Other processes have other tokens, so there is nothing to pool."""

    def reset(self) -> None:
        """Forget the step."""
        super().reset()
        self._step = None

    def save_state(self, path: Any) -> None:
        """Refuse, because the tokens of one step are not the state of a run.

        Raises:
            MetricError: Always; use ``compute().to_pandas()`` to keep the numbers.
        """
        raise MetricError("TokenStatistics: holds only one step, so there is nothing to resume from. Keep compute().to_pandas() instead.")
