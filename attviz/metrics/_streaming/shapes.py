"""Layouts: which tensors, of which shapes, the state of a metric has for given layers. Files and processes are checked against them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attviz.metrics._streaming.moments import Cells, Moments
from attviz.metrics._streaming.states import LayerInfo, State

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Shapes of the samples, and dtypes and shapes of the sums, of a state, by name."""

    moments: dict[str, Cells]
    sums: dict[str, tuple[torch.dtype, Shape]]

    def tensors(self) -> dict[str, tuple[torch.dtype, Shape]]:
        """Flatten to the dtype and shape of every tensor, under the names of :meth:`State.tensors`."""
        flat = {f"{name}/{part}": found for name, cells in self.moments.items() for part, found in cells.tensors().items()}
        return flat | self.sums

    def complete(self, state: State, layers: dict[int, LayerInfo], device: torch.device) -> State:
        """Bring ``state`` to this layout on ``device``: empty samples where it has none."""
        moments = {
            name: state.moments[name].map(lambda tensor: tensor.to(device)) if name in state.moments else Moments.empty(cells, device)
            for name, cells in self.moments.items()
        }
        sums = {
            name: state.sums[name].to(device) if name in state.sums else torch.zeros(shape, dtype=dtype, device=device)
            for name, (dtype, shape) in self.sums.items()
        }
        return State(dict(layers), moments, sums)
