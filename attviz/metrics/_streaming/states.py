"""The state of a streaming metric as plain data: which layers it saw, and named samples and sums."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attviz.errors import MetricError
from attviz.metrics._streaming.moments import FIELDS, Moments


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What identifies a layer: its number of heads, and its name if both sides know it."""

    num_heads: int
    name: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Samples and sums by name. ``a + b`` pools on the devices of ``b``.

    Attributes:
        layers: By layer index.
        moments: By quantity and layer, such as ``"diagonal/3"``.
        sums: What simply adds up, such as ``"faults/3"``.
    """

    layers: dict[int, LayerInfo] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: State) -> State:
        layers = merge_layers(self.layers, other.layers)
        moments = dict(self.moments)
        for name, sample in other.moments.items():
            moments[name] = moments[name].map(_to(sample.mean.device)) + sample if name in moments else sample
        sums = dict(self.sums)
        for name, value in other.sums.items():
            sums[name] = sums[name].to(value.device) + value if name in sums else value
        return State(layers, moments, sums)

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """Apply ``function`` to every tensor."""
        return State(
            dict(self.layers),
            {name: sample.map(function) for name, sample in self.moments.items()},
            {name: function(value) for name, value in self.sums.items()},
        )

    def tensors(self) -> dict[str, Tensor]:
        """Flatten to tensors by name: ``"diagonal/3/mean"``, ``"faults/3"``."""
        flat = {f"{name}/{part}": getattr(sample, part) for name, sample in self.moments.items() for part in FIELDS}
        return flat | self.sums

    def describe(self) -> str:
        """The layers as JSON: the part of a state that is not tensors."""
        return json.dumps({str(index): [info.num_heads, info.name] for index, info in sorted(self.layers.items())})


def merge_layers(mine: Mapping[int, LayerInfo], theirs: Mapping[int, LayerInfo]) -> dict[int, LayerInfo]:
    """Join two tables of layers.

    Raises:
        MetricError: If a layer's number of heads or its name differs between the two.
    """
    merged = dict(mine)
    for index, new in theirs.items():
        old = merged.get(index)
        if old is None:
            merged[index] = new
            continue
        if old.num_heads != new.num_heads or (old.name and new.name and old.name != new.name):
            raise MetricError(
                f"layer {index} was {_say(old)} before and is {_say(new)} now: these come from two models. "
                "Use one metric for each model (or reset() between them); the state is unchanged."
            )
        if old.name is None and new.name is not None:
            merged[index] = new
    return merged


def _say(info: LayerInfo) -> str:
    return f"{info.name or 'unnamed'!r} with num_heads={info.num_heads}"


def _to(device: torch.device) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.to(device)
