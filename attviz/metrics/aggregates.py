"""Aggregates over vectors, one value per token (AttViz, Table 2, arXiv:2005.05716).

The vectors of a token are its diagonal values in all layers and heads. Every function takes ``[num_layers, batch, num_heads,
q_len]`` (``cap.diagonal``) or one layer ``[batch, num_heads, q_len]``, and returns ``[batch, q_len]`` on the same device. Padding
queries are NaN in the diagonal and stay NaN in every aggregate. Nothing here waits for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from jaxtyping import Float
from torch import Tensor

from attviz.errors import ArgumentError
from attviz.metrics.entropies import EntropyKind, entropy
from attviz.metrics.vectors import Over, vectors_last

if TYPE_CHECKING:
    import pandas as pd


def mean(diagonal: Float[Tensor, "*layers batch num_heads q_len"], *, over: Over = "heads and layers") -> Float[Tensor, "... q_len"]:
    """Mean self-attention of each token over its vectors.

    Args:
        diagonal: ``[num_layers, batch, num_heads, q_len]`` or ``[batch, num_heads, q_len]``; half precision is computed in float32.
        over: ``"heads and layers"``; ``"heads"`` keeps the layers (``[num_layers, batch, q_len]``), ``"layers"`` keeps the heads
            (``[batch, num_heads, q_len]``).

    Returns:
        Probabilities in [0, 1]; NaN where the query is padding.

    Raises:
        ShapeError: If the axes are not those of a diagonal.
        DtypeError: If it is not a floating point tensor.
        ArgumentError: If ``over`` is not one of the three.

    Example:
        >>> mean(torch.tensor([[[0.5, 1.0], [0.25, 1.0]]]))
        tensor([[0.3750, 1.0000]])
    """
    return vectors_last(diagonal, over, "mean").mean(-1)


def std(
    diagonal: Float[Tensor, "*layers batch num_heads q_len"], *, correction: int = 1, over: Over = "heads and layers"
) -> Float[Tensor, "... q_len"]:
    """Standard deviation of each token's self-attention over its vectors.

    Args:
        diagonal: As in :func:`mean`.
        correction: 1 divides by ``vectors - 1`` as the paper does; 0 by ``vectors``, as the original page and scripts do.
        over: As in :func:`mean`.

    Returns:
        Standard deviation; NaN at padding, and everywhere if ``vectors <= correction``: a single vector has no spread.

    Raises:
        ShapeError, DtypeError, ArgumentError: As in :func:`mean`; also for a negative ``correction``.

    Example:
        >>> std(torch.tensor([[[0.5, 1.0], [0.25, 1.0]]]), correction=0)
        tensor([[0.1250, 0.0000]])
        >>> std(torch.tensor([[[0.5, 1.0]]]))
        tensor([[nan, nan]])
    """
    if correction < 0:
        raise ArgumentError(f"std: correction must be at least 0, got {correction}.")
    vectors = vectors_last(diagonal, over, "std")
    degrees = vectors.shape[-1] - correction
    if degrees <= 0:  # decided by shapes alone; torch.std would warn here, and give 0 or inf in some versions
        return torch.full_like(vectors[..., 0], float("nan"))
    return (vectors - vectors.mean(-1, keepdim=True)).square().sum(-1).div(degrees).sqrt()


def max(diagonal: Float[Tensor, "*layers batch num_heads q_len"], *, over: Over = "heads and layers") -> Float[Tensor, "... q_len"]:
    """Largest self-attention of each token over its vectors; arguments, NaN and errors as in :func:`mean`.

    Example:
        >>> max(torch.tensor([[[0.5, 1.0], [0.25, 1.0]]]))
        tensor([[0.5000, 1.0000]])
    """
    return vectors_last(diagonal, over, "max").amax(-1)


def min(diagonal: Float[Tensor, "*layers batch num_heads q_len"], *, over: Over = "heads and layers") -> Float[Tensor, "... q_len"]:
    """Smallest self-attention of each token over its vectors; arguments, NaN and errors as in :func:`mean`.

    Example:
        >>> min(torch.tensor([[[0.5, 1.0], [0.25, 1.0]]]))
        tensor([[0.2500, 1.0000]])
    """
    return vectors_last(diagonal, over, "min").amin(-1)


def range(diagonal: Float[Tensor, "*layers batch num_heads q_len"], *, over: Over = "heads and layers") -> Float[Tensor, "... q_len"]:
    """``max - min`` of each token over its vectors; arguments, NaN and errors as in :func:`mean`.

    Example:
        >>> range(torch.tensor([[[0.5, 1.0], [0.25, 1.0]]]))
        tensor([[0.2500, 0.0000]])
    """
    lowest, highest = vectors_last(diagonal, over, "range").aminmax(dim=-1)
    return highest - lowest


class TokenAggregates(NamedTuple):
    """The six aggregates of every token, as attributes (``.mean``), by name (``["mean"]``) or as ``_asdict()``."""

    mean: Float[Tensor, "batch q_len"]
    std: Float[Tensor, "batch q_len"]
    max: Float[Tensor, "batch q_len"]
    min: Float[Tensor, "batch q_len"]
    range: Float[Tensor, "batch q_len"]
    entropy: Float[Tensor, "batch q_len"]

    @overload  # type: ignore[override]
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: int) -> Tensor: ...
    def __getitem__(self, key: Any) -> Any:
        """Return the aggregate of that name, or at that index, as for any tuple."""
        if isinstance(key, str):
            if key not in self._fields:
                raise ArgumentError(f"TokenAggregates: there is no aggregate {key!r}. Choose one of {', '.join(self._fields)}.")
            return getattr(self, key)
        return tuple(self)[key]

    def to_pandas(self) -> pd.DataFrame:
        """One row per token (index ``batch, position``), one column per aggregate; padding is left out.

        Copies to the CPU, so do not call it in a training step.
        """
        import pandas as pd

        columns = {name: getattr(self, name).detach().flatten().cpu().numpy() for name in self._fields}
        rows, length = self.mean.shape[0], self.mean.shape[-1]
        index = pd.MultiIndex.from_product([torch.arange(rows).numpy(), torch.arange(length).numpy()], names=["batch", "position"])
        return pd.DataFrame(columns, index=index).dropna(subset=["mean"])


def aggregate(
    diagonal: Float[Tensor, "*layers batch num_heads q_len"],
    *,
    correction: int = 1,
    kind: EntropyKind = "table2",
    over: Over = "heads and layers",
) -> TokenAggregates:
    """All six aggregates of every token at once.

    Args:
        diagonal: As in :func:`mean`.
        correction: As in :func:`std`.
        kind: As in :func:`attviz.metrics.entropy`.
        over: As in :func:`mean`.

    Returns:
        ``mean, std, max, min, range, entropy``, each ``[batch, q_len]``.

    Raises:
        ShapeError, DtypeError, ArgumentError: As in :func:`mean`.

    Example:
        >>> six = aggregate(torch.tensor([[[0.5, 1.0], [0.25, 1.0]]]))
        >>> six.max
        tensor([[0.5000, 1.0000]])
        >>> six["range"]
        tensor([[0.2500, 0.0000]])
    """
    return TokenAggregates(
        mean(diagonal, over=over),
        std(diagonal, correction=correction, over=over),
        max(diagonal, over=over),
        min(diagonal, over=over),
        range(diagonal, over=over),
        entropy(diagonal, kind=kind, over=over),
    )
