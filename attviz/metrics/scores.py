"""Published scores that need no attention matrix, as plain functions of a diagonal or a reading, each with its source."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attviz.errors import ArgumentError, ShapeError


def log_diagonal(
    diagonal: Float[Tensor, "*layers batch num_heads q_len"], query_mask: Bool[Tensor, "batch q_len"] | None = None
) -> Float[Tensor, "*layers batch"]:
    """Mean log self-attention of each text, summed over the heads: the attention score of LLM-Check.

    For a causal model ``sum_i log A_ii`` is the log-determinant of the attention matrix; it differs for hallucinated answers.
    Source: Sriramanan et al., LLM-Check (NeurIPS 2024).

    Args:
        diagonal: ``cap.diagonal``, or one layer of it; NaN at padding.
        query_mask: True at the tokens that count, such as those of the answer; by default all that are not padding.

    Example:
        >>> log_diagonal(torch.tensor([[[1.0, 0.25], [1.0, 1.0]]])).exp()
        tensor([0.5000])
    """
    counts = ~diagonal.isnan()
    if query_mask is not None:
        _fits("log_diagonal", query_mask, diagonal)
        counts = counts & query_mask[:, None].to(diagonal.device)
    logs = torch.where(counts, diagonal.clamp_min(torch.finfo(diagonal.dtype).tiny), 1.0).log()
    return (logs.sum(-1) / counts.sum(-1)).sum(-1)


def laplacian_eigenvalues(
    received: Float[Tensor, "*leading kv_len"], diagonal: Float[Tensor, "*leading kv_len"], *, k: int | None = None
) -> Float[Tensor, "*leading n"]:
    """Eigenvalues of the Laplacian of a causal attention map: what each key receives per later query, minus its own weight.

    ``d_j = sum_i A_ij / (T - j)`` and ``lambda_j = d_j - A_jj`` (the Laplacian is lower triangular, so they are its diagonal).
    Source: Binkowski et al., LapEigvals (arXiv:2502.17598), which feeds the largest ``k`` of each head to a probe.

    Args:
        received: Column sums, ``cap.reading("received")``, of a causal model on texts without padding.
        diagonal: ``cap.diagonal``.
        k: Return the largest ``k`` of each head, largest first; None returns all in the order of the keys.

    Example:
        >>> laplacian_eigenvalues(torch.tensor([1.5, 0.5]), torch.tensor([1.0, 0.5]))  # [[1, 0], [0.5, 0.5]]
        tensor([-0.2500,  0.0000])
    """
    if received.shape != diagonal.shape:
        raise ShapeError(
            f"laplacian_eigenvalues: received has shape {tuple(received.shape)} and diagonal {tuple(diagonal.shape)}; they must be equal."
        )
    length = received.shape[-1]
    if k is not None and not 0 < k <= length:
        raise ArgumentError(f"laplacian_eigenvalues: k must be between 1 and the number of keys, {length}; got {k}.")
    values = received / torch.arange(length, 0, -1, device=received.device) - diagonal
    return values if k is None else values.topk(k, -1).values


def retrieval_score(
    sink: Float[Tensor, "*leading q_len"], window: Float[Tensor, "*leading q_len"], *, skip: int
) -> Float[Tensor, "*leading"]:
    """Mean attention of each head outside the first keys and a recent window: high in retrieval heads, near 0 in streaming heads.

    Source: the two kinds of heads in Xiao et al., DuoAttention (arXiv:2410.10819). They find them by training gates; this reads directly
    what those gates keep or drop.

    Args:
        sink: ``cap.reading("keys(first=4)")``.
        window: ``cap.reading("window(64)")``.
        skip: Queries at the start where the two overlap and would be counted twice: first keys plus width of the window.

    Example:
        >>> retrieval_score(torch.tensor([0.9, 0.2]), torch.tensor([0.9, 0.1]), skip=1)
        tensor(0.7000)
    """
    if sink.shape != window.shape:
        raise ShapeError(f"retrieval_score: sink has shape {tuple(sink.shape)} and window {tuple(window.shape)}; they must be equal.")
    if not 0 <= skip < sink.shape[-1]:
        raise ArgumentError(f"retrieval_score: skip={skip} leaves none of the {sink.shape[-1]} queries.")
    return (1 - sink - window)[..., skip:].clamp(0, 1).nanmean(-1)


def sink_rate(first: Float[Tensor, "num_layers batch num_heads q_len"], *, threshold: float = 0.3) -> Float[Tensor, ""]:
    """Share of all heads whose mean attention to the first token is above a threshold.

    Source: Gu et al., When Attention Sink Emerges (arXiv:2410.10781), with 0.3.

    Args:
        first: ``cap.reading("keys(first=1)")``; NaN at padding.
        threshold: Weight above which a head counts as a sink.

    Example:
        >>> sink_rate(torch.tensor([[[[1.0, 0.8], [1.0, 0.0]]]]), threshold=0.6)
        tensor(0.5000)
    """
    if first.ndim != 4:
        raise ShapeError(f"sink_rate: needs [num_layers, batch, num_heads, q_len], got {tuple(first.shape)}.")
    return (first.nanmean((1, 3)) > threshold).float().mean()


def diagonal_share(
    diagonal: Float[Tensor, "*layers batch num_heads q_len"], query_mask: Bool[Tensor, "batch q_len"] | None = None
) -> Float[Tensor, "*layers num_heads"]:
    """Share of a head's attention that lies on the diagonal: the mean over its real tokens, each text weighted by its length.

    Source: Shi et al., SparseBERT (arXiv:2102.12871), which finds the diagonal the least needed part of the matrix.

    Args:
        diagonal: ``cap.diagonal``; NaN at padding.
        query_mask: True at the tokens that count; by default all that are not padding.

    Example:
        >>> diagonal_share(torch.tensor([[[0.5, 1.0]]]))
        tensor([0.7500])
    """
    counts = ~diagonal.isnan()
    if query_mask is not None:
        _fits("diagonal_share", query_mask, diagonal)
        counts = counts & query_mask[:, None].to(diagonal.device)
    return torch.where(counts, diagonal, 0).sum((-3, -1)) / counts.sum((-3, -1))


def self_similarity(
    output: Float[Tensor, "batch num_heads q_len head_dim"], value: Float[Tensor, "batch num_kv_heads q_len head_dim"]
) -> Float[Tensor, "batch num_heads q_len"]:
    """Cosine between a token's attention output and its own value: how much of the output the token already carried.

    Source: exclusive self attention (Zhai 2026, arXiv:2603.09078), to be compared with the diagonal, layer by layer. ``O(T d)``.

    Args:
        output: Attention output per head, before the output projection.
        value: Values; grouped heads share them.

    Example:
        >>> self_similarity(torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0]]]]))
        tensor([[[0.7071]]])
    """
    heads, kv_heads = output.shape[1], value.shape[1]
    if output.ndim != 4 or value.ndim != 4 or heads % kv_heads or output.shape[2:] != value.shape[2:]:
        raise ShapeError(f"self_similarity: output {tuple(output.shape)} and value {tuple(value.shape)} do not belong to one attention.")
    return torch.nn.functional.cosine_similarity(output.float(), value.repeat_interleave(heads // kv_heads, 1).float(), dim=-1)


def query_clip(max_logit: Float[Tensor, "*layers num_heads"], *, threshold: float = 100.0) -> Float[Tensor, "*layers num_heads"]:
    """Factor for each head's query projection that brings its largest logit down to a threshold; 1 if it is below.

    Source: QK-Clip of MuonClip, Kimi K2 (arXiv:2507.20534), which multiplies query and key by the root of the factor. Applied to the query
    alone, it also works for heads that share keys, and scales every logit of the head equally. It is valid if query and key are linear in
    their projections, so not after a normalisation of queries and keys, which needs no clipping.

    Args:
        max_logit: ``AttentionHealth().compute().max_logit``, or ``cap.reading("max_logit")`` reduced to heads; NaN yields 1.
        threshold: Largest logit allowed; Kimi K2 trains with 100.

    Example:
        >>> query_clip(torch.tensor([50.0, 400.0]))
        tensor([1.0000, 0.2500])
    """
    if not threshold > 0:
        raise ArgumentError(f"query_clip: threshold must be above 0, got {threshold}.")
    return (threshold / max_logit.clamp_min(threshold)).nan_to_num(1.0)


def _fits(caller: str, mask: Tensor, diagonal: Tensor) -> None:
    expected = (diagonal.shape[-3], diagonal.shape[-1])
    if tuple(mask.shape) != expected:
        raise ShapeError(f"{caller}: query_mask must be [batch, q_len] = {expected} for this diagonal, got {tuple(mask.shape)}.")
