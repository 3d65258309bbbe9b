"""Lift: self-attention relative to uniform attention."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attviz.errors import ArgumentError, ShapeError
from attviz.metrics.packed import text_bounds
from attviz.metrics.vectors import check_diagonal


def lift(
    diagonal: Float[Tensor, "*layers batch num_heads q_len"],
    visible_keys: Int[Tensor, "*batch q_len"] | None = None,
    *,
    is_causal: bool | None = None,
    query_mask: Bool[Tensor, "batch q_len"] | None = None,
    window_size: int | None = None,
    document_ids: Int[Tensor, "batch q_len"] | None = None,
) -> Float[Tensor, "*layers batch num_heads q_len"]:
    """Diagonal times the number of keys each query can see: 1 means the same as uniform attention.

    A causal model has ``a_0 = 1`` always and ``a_i`` near ``1 / i``: raw values rank the first tokens on top, lifts do not.

    Args:
        diagonal: ``[num_layers, batch, num_heads, q_len]`` or ``[batch, num_heads, q_len]``.
        visible_keys: Keys each query sees under the mask in force, broadcastable to ``[batch, q_len]``. Without it they are counted
            from the arguments below, for self-attention without a cache.
        is_causal: Whether a query sees only keys up to its own; required when ``visible_keys`` is not given.
        query_mask: True where the token is real; by default the tokens whose diagonal is not NaN.
        window_size: Of a sliding window: a causal query sees its own key and the ``window_size - 1`` before it; otherwise it sees
            ``window_size // 2`` keys on each side.
        document_ids: For texts packed into one row, the number of each token's text, as in records: a query sees only its own text.

    Returns:
        Lifts >= 0, same shape; NaN where the query is padding.

    Raises:
        ArgumentError: If neither ``visible_keys`` nor ``is_causal`` is given, or both are.
        ShapeError, DtypeError: If the diagonal is not one, or the other shapes do not fit it.

    Example:
        >>> lift(torch.tensor([[[1.0, 0.5, 0.25]]]), is_causal=True)
        tensor([[[1.0000, 1.0000, 0.7500]]])
        >>> lift(torch.tensor([[[0.5, 0.5, float("nan")]]]), is_causal=False)
        tensor([[[1., 1., nan]]])
    """
    check_diagonal(diagonal, "lift")
    if (visible_keys is None) == (is_causal is None):
        raise ArgumentError(
            "lift: specify what each query can see in exactly one way: visible_keys=, or is_causal=True (GPT-like) or False (BERT-like). "
            f"Got visible_keys={'a tensor' if visible_keys is not None else 'None'} and is_causal={is_causal}."
        )
    batch, q_len = diagonal.shape[-3], diagonal.shape[-1]
    if document_ids is not None and document_ids.shape != (batch, q_len):
        raise ShapeError(f"lift: document_ids must be [batch, q_len] = {(batch, q_len)}, got {tuple(document_ids.shape)}.")
    if visible_keys is None:
        if query_mask is None:
            absent = diagonal.isnan().all(-2)
            query_mask = ~(absent.all(0) if diagonal.ndim == 4 else absent)
        elif query_mask.shape != (batch, q_len):
            raise ShapeError(f"lift: query_mask must be [batch, q_len] = {(batch, q_len)}, got {tuple(query_mask.shape)}.")
        visible_keys = count_visible_keys(query_mask, is_causal=bool(is_causal), window_size=window_size, document_ids=document_ids)
    try:
        visible_keys = visible_keys.expand(batch, q_len)
    except RuntimeError:
        raise ShapeError(
            f"lift: visible_keys must broadcast to [batch, q_len] = {(batch, q_len)}, got {tuple(visible_keys.shape)}."
        ) from None
    return diagonal * visible_keys.unsqueeze(-2).to(diagonal.dtype if diagonal.dtype == torch.float64 else torch.float32)


def count_visible_keys(
    query_mask: Bool[Tensor, "batch q_len"],
    *,
    is_causal: bool,
    window_size: int | None = None,
    document_ids: Int[Tensor, "batch q_len"] | None = None,
) -> Int[Tensor, "batch q_len"]:
    """Count the real keys each query sees in self-attention without a cache.

    Args:
        query_mask: True where the token is real; padding on either side.
        is_causal: Whether a query sees only keys up to its own.
        window_size: As in :func:`lift`.
        document_ids: As in :func:`lift`.

    Example:
        >>> count_visible_keys(torch.tensor([[False, True, True]]), is_causal=True)
        tensor([[0, 1, 2]])
        >>> count_visible_keys(torch.ones(1, 4, dtype=torch.bool), is_causal=True, document_ids=torch.tensor([[0, 0, 0, 1]]))
        tensor([[1, 2, 3, 1]])
    """
    if window_size is not None and window_size < 1:
        raise ArgumentError(f"lift: window_size must be at least 1, got {window_size}.")
    q_len = query_mask.shape[1]
    seen = torch.nn.functional.pad(query_mask.long().cumsum(1), (1, 0))  # seen[:, j]: real keys before j
    here = torch.arange(q_len, device=query_mask.device)
    reach = q_len if window_size is None else (window_size - 1 if is_causal else window_size // 2)
    first = (here - reach).clamp_min(0)
    last = here if is_causal else (here + reach).clamp_max(q_len - 1)
    if document_ids is None:
        return seen[:, last + 1] - seen[:, first]
    begin, end = text_bounds(document_ids)
    return seen.gather(1, torch.minimum(last, end) + 1) - seen.gather(1, torch.maximum(first, begin))
