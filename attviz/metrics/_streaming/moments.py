"""Count, mean, summed squared deviation and extremes of a sample: the state behind every streaming statistic.

Two samples pool by Chan, Golub and LeVeque (1979) in float64: float32 sums of squares lose the deviation of values such as
1e-4 +- 1e-7 altogether, and a float32 counter stops at 2**24.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attviz.statistics import pool

FIELDS = ("count", "mean", "m2", "max", "min")


@dataclass(frozen=True, slots=True)
class Cells:
    """Shape of a sample: of its cells, of its counts if those are shared (None: one per cell), and the dtype of its extremes."""

    shape: tuple[int, ...]
    counts: tuple[int, ...] | None = None
    extremes: torch.dtype = torch.float64

    def tensors(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of each of :data:`FIELDS`."""
        return {
            "count": (torch.float64, self.counts or self.shape),
            "mean": (torch.float64, self.shape),
            "m2": (torch.float64, self.shape),
            "max": (self.extremes, self.shape),
            "min": (self.extremes, self.shape),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """A sample in each cell of some shape; ``a + b`` pools two. All float64, except extremes if float32 was chosen for them.

    Attributes:
        count: Values seen; float64 counts exactly up to 2**53. May have one column for many cells that are always seen together.
        mean: 0 where the count is 0.
        m2: Sum of squared deviations from the mean.
        max: -inf where the count is 0.
        min: +inf where the count is 0.
    """

    count: Float[Tensor, "*counts"]
    mean: Float[Tensor, "*cells"]
    m2: Float[Tensor, "*cells"]
    max: Float[Tensor, "*cells"]
    min: Float[Tensor, "*cells"]

    @classmethod
    def empty(cls, cells: Cells, device: torch.device | str = "cpu") -> Moments:
        """Make an empty sample."""
        shape, counts, extremes = cells.shape, cells.counts or cells.shape, cells.extremes
        return cls(
            torch.zeros(counts, dtype=torch.float64, device=device),
            torch.zeros(shape, dtype=torch.float64, device=device),
            torch.zeros(shape, dtype=torch.float64, device=device),
            torch.full(shape, -torch.inf, dtype=extremes, device=device),
            torch.full(shape, torch.inf, dtype=extremes, device=device),
        )

    @classmethod
    def of(cls, values: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"], dims: tuple[int, ...]) -> Moments:
        """Reduce ``values`` where ``valid`` over ``dims``.

        Deviations are summed from the largest value, not from 0: being one of the sample, it is never further than
        ``sqrt(count)`` deviations from the mean, so little cancels. Masked arithmetic and not ``values[valid]``: indexing by a
        mask makes the host wait for the device.

        Example:
            >>> seen = Moments.of(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]), (0,))
            >>> seen.count.item(), seen.mean.item(), seen.m2.item(), seen.max.item()
            (2.0, 2.0, 2.0, 3.0)
        """
        count = valid.sum(dims).double()
        if values.numel() == 0:
            return cls.empty(Cells(tuple(count.shape)), values.device)
        kept = values.where(valid, -torch.inf).amax(dims, keepdim=True)
        kept = kept.where(kept > -torch.inf, 0)
        filled = values.where(valid, kept)
        deviation = filled.double() - kept
        total = deviation.sum(dims)
        m2 = deviation.square_().sum(dims) - total.square() / count.clamp_min(1)
        anchor, seen = kept.reshape(count.shape).double(), count > 0
        return cls(
            count,
            (anchor + total / count.clamp_min(1)).where(seen, 0),
            m2.clamp_min(0),
            anchor.where(seen, -torch.inf),
            filled.amin(dims).double().where(seen, torch.inf),
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            *pool(self.count, self.mean, self.m2, other.count, other.mean, other.m2),
            torch.maximum(self.max, other.max),
            torch.minimum(self.min, other.min),
        )

    def std(self, correction: int = 1) -> Float[Tensor, "*cells"]:
        """Standard deviation; NaN where ``count <= correction``."""
        degrees = self.count - correction
        return torch.where(degrees > 0, self.m2 / degrees.clamp_min(1), torch.nan).sqrt()

    def seen(self, values: Float[Tensor, "*cells"]) -> Float[Tensor, "*cells"]:
        """Return ``values`` with NaN where nothing was seen."""
        return torch.where(self.count > 0, values, torch.nan)

    def map(self, function: Callable[[Tensor], Tensor]) -> Moments:
        """Apply ``function`` to each of the five tensors."""
        return Moments(*(function(getattr(self, name)) for name in FIELDS))
