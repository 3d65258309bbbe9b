"""What else can be read from an attention row, and the five aggregates over heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

AGGREGATES = ("mean", "std", "max", "min", "entropy")


class RowSummary(NamedTuple):
    """The diagonal with what the same pass yields at little cost; None if the source cannot provide it.

    Attributes:
        diagonal: ``[batch, num_heads, q_len]``, weight of each query on its own key.
        aggregates: ``[5, batch, q_len]`` over the heads, in the order of :data:`AGGREGATES`: Table 2 of arXiv:2005.05716.
        first_token: ``[batch, num_heads, q_len]``, weight on key 0.
        logsumexp: ``[batch, num_heads, q_len]``, natural logarithm, learned sinks included; -inf for a row that sees nothing.
        row_entropy: ``[batch, num_heads, q_len]``, ``-sum_j A_ij log A_ij`` in nats (arXiv:2303.06296), without the sink.
        row_max_logit: ``[batch, num_heads, q_len]``, largest visible logit of the row, without the sink.
    """

    diagonal: Tensor
    aggregates: Tensor | None = None
    first_token: Tensor | None = None
    logsumexp: Tensor | None = None
    row_entropy: Tensor | None = None
    row_max_logit: Tensor | None = None


def empty_outputs(like: Tensor, rows: torch.Size, extras: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Storage for diagonal, weight on key 0 and aggregates; the last two hold nothing unless ``extras``."""
    batch, _, q_len = rows
    return (
        like.new_empty(rows, dtype=torch.float32),
        like.new_empty(rows if extras else (0,), dtype=torch.float32),
        like.new_empty((5, batch, q_len) if extras else (0,), dtype=torch.float32),
    )


def head_aggregates(diagonal: Float[Tensor, "batch num_heads q_len"]) -> Float[Tensor, "5 batch q_len"]:
    """Mean, standard deviation (correction 1; NaN for one head), maximum, minimum and Table 2 entropy over the heads.

    The entropy is ``-(1/m) sum_h a log a`` with ``m`` the number of distinct values of the token.

    Example:
        >>> head_aggregates(torch.tensor([[[0.5], [0.5], [1.0]]])).flatten()
        tensor([0.6667, 0.2887, 1.0000, 0.5000, 0.3466])
    """
    num_heads = diagonal.shape[1]
    if diagonal.numel() == 0:
        return diagonal.new_full((5, diagonal.shape[0], diagonal.shape[2]), float("nan"))
    mean = diagonal.mean(1)
    deviation = (diagonal - mean[:, None]).square().sum(1)
    std = torch.sqrt(deviation / (num_heads - 1)) if num_heads > 1 else torch.full_like(mean, float("nan"))
    ordered = diagonal.sort(1).values
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
    entropy = -torch.xlogy(diagonal, diagonal).sum(1) / distinct
    return torch.stack((mean, std, ordered[:, -1], ordered[:, 0], entropy))


def head_aggregates_reference(diagonal: Float[Tensor, "batch num_heads q_len"]) -> Float[Tensor, "5 batch q_len"]:
    """Float64 oracle of :func:`head_aggregates`, one token at a time."""
    batch, _, q_len = diagonal.shape
    out = torch.full((5, batch, q_len), float("nan"), dtype=torch.float64, device=diagonal.device)
    for b in range(batch):
        for i in range(q_len):
            values = diagonal[b, :, i].double()
            if not len(values):
                continue
            total = sum(float(a * a.log()) for a in values if a > 0)
            spread = float(values.std()) if len(values) > 1 else float("nan")
            distinct = len(set(diagonal[b, :, i].tolist()))
            out[:, b, i] = torch.tensor([float(values.mean()), spread, float(values.max()), float(values.min()), -total / distinct])
    return out
