"""The entropies over a token's vectors. Three different quantities have this name, so the kind is always explicit.

(The entropy of an attention *row*, ``-sum_j A_ij log A_ij``, is a fourth: see ``AttentionHealth``.)
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attviz.errors import ArgumentError
from attviz.metrics.vectors import Over, vectors_last

EntropyKind = Literal["table2", "binned", "shannon"]
NUM_BINS = 101  # floor(100 a) of a probability: 0 to 100


def entropy(
    diagonal: Float[Tensor, "*layers batch num_heads q_len"],
    *,
    kind: EntropyKind = "table2",
    normalize: bool = False,
    over: Over = "heads and layers",
) -> Float[Tensor, "... q_len"]:
    """Entropy of each token's self-attention over its ``h`` vectors, in nats, with ``0 log 0 = 0``.

    ``"table2"``: ``-(1/m) sum_v a log a`` with ``m`` distinct values, as AttViz's Table 2 prints it (arXiv:2005.05716).
    ``"binned"``: as the original page computes it: bins ``floor(100 a) / 100`` in double precision, ``P = count / h``,
    ``-(1/m) sum_b P log P`` with ``m`` distinct bins. ``"shannon"``: ``-sum_v p log p`` with ``p = a / sum a``.

    Args:
        diagonal: ``[num_layers, batch, num_heads, q_len]`` or ``[batch, num_heads, q_len]``; half precision is computed in float32.
        kind: Which of the three.
        normalize: Divide by ``log h``, so that 1 means all vectors equal; only for ``"shannon"``.
        over: ``"heads and layers"``; ``"heads"`` keeps the layers, ``"layers"`` keeps the heads.

    Returns:
        NaN where the query is padding. ``"shannon"`` is also NaN where every vector is exactly 0 (there is no distribution), and
        with ``normalize`` if there is only one vector (``log 1 = 0``).

    Raises:
        ShapeError: If the axes are not those of a diagonal.
        DtypeError: If it is not a floating point tensor.
        ArgumentError: For an unknown ``kind`` or ``over``, or ``normalize`` with another kind.

    Example:
        >>> two = torch.tensor([[[1.0, 0.5], [1.0, 0.25]]])
        >>> entropy(two)  # token 1: (0.5 log 2 + 0.25 log 4) / 2
        tensor([[0.0000, 0.3466]])
        >>> entropy(two, kind="shannon", normalize=True)
        tensor([[1.0000, 0.9183]])
    """
    if kind not in get_args(EntropyKind):
        raise ArgumentError(f"entropy: kind must be one of {', '.join(repr(choice) for choice in get_args(EntropyKind))}, got {kind!r}.")
    if normalize and kind != "shannon":
        raise ArgumentError(f"entropy: normalize=True divides by log(vectors), which bounds kind='shannon' only, not {kind!r}.")
    vectors = vectors_last(diagonal, over, "entropy")
    if kind == "table2":
        surprise: Tensor = torch.special.entr(vectors).sum(-1)
        return surprise / distinct_values(vectors)
    if kind == "binned":
        return _binned_entropy(vectors)
    share = vectors / vectors.sum(-1, keepdim=True)
    total: Tensor = torch.special.entr(share).sum(-1)
    if not normalize:
        return total
    return total / math.log(vectors.shape[-1]) if vectors.shape[-1] > 1 else torch.full_like(total, float("nan"))


def distinct_values(vectors: Float[Tensor, "*tokens vectors"]) -> Int[Tensor, "*tokens"]:
    """Count the distinct values of each token: one sort along the vectors, then differences between neighbours."""
    ordered = vectors.sort(-1).values
    return (ordered[..., 1:] != ordered[..., :-1]).sum(-1) + 1


def bins(values: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Bin ``floor(100 a)`` of each value, in double precision: there 0.29 falls into bin 28; float32 would say 29."""
    if values.device.type == "mps":  # has no float64
        return bins(values.cpu()).to(values.device)
    return values.double().mul(NUM_BINS - 1).floor().nan_to_num(0.0).clamp(0, NUM_BINS - 1).long()


def _binned_entropy(vectors: Float[Tensor, "*tokens vectors"]) -> Float[Tensor, "*tokens"]:
    where = bins(vectors)
    counts = torch.zeros(*vectors.shape[:-1], NUM_BINS, dtype=vectors.dtype, device=vectors.device)
    counts.scatter_add_(-1, where, torch.ones_like(vectors))
    value: Tensor = torch.special.entr(counts / vectors.shape[-1]).sum(-1) / (counts > 0).sum(-1)
    return value.masked_fill(vectors.isnan().any(-1), float("nan"))
