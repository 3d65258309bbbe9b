"""Dense float64 oracles of the operators: readable first, O(q_len * kv_len) memory, for tests and benchmarks."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from attviz.kernels.summary import RowSummary

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from attviz.kernels.qk import QkOptions


def dense_logits(query: Tensor, key: Tensor, **options: Unpack[QkOptions]) -> Tensor:
    """Logits ``[batch, num_heads, q_len, kv_len]`` in float64, -inf where a key is not seen. Options as ``diagonal_from_qk``."""
    q_len, kv_len = query.shape[2], key.shape[2]
    scale = options.get("scale")
    scale = query.shape[3] ** -0.5 if scale is None else scale
    logits = scale * (query.double() @ key.double().repeat_interleave(query.shape[1] // key.shape[1], dim=1).mT)
    if cap := options.get("softcap"):
        logits = cap * torch.tanh(logits / cap)
    alignment = 0 if options.get("causal_alignment") == "top_left" else kv_len - q_len
    positions = torch.arange(q_len, device=query.device)[:, None] + alignment
    distance = torch.arange(kv_len, device=query.device) - positions
    if (slopes := options.get("alibi_slopes")) is not None:
        logits = logits - slopes.double()[..., None, None] * distance.abs()
    seen = torch.ones_like(distance, dtype=torch.bool).expand_as(logits)
    if (bias := options.get("bias")) is not None:
        if bias.dtype is torch.bool:
            seen = seen & bias
        else:
            logits = logits + bias.double()
    if (key_mask := options.get("key_mask")) is not None:
        seen = seen & key_mask[:, None, None, :]
    left, right = options.get("window_size", (-1, -1))
    if options.get("is_causal"):
        right = 0
    if right >= 0:
        seen = seen & (distance <= right)
    if left >= 0:
        seen = seen & (distance >= -left)
    return logits.masked_fill(~seen, float("-inf"))


def summary_from_qk_reference(query: Tensor, key: Tensor, **options: Unpack[QkOptions]) -> RowSummary:
    """Float64 oracle of ``diagonal_from_qk`` and ``summary_from_qk``."""
    if (cu_q := options.get("cu_seqlens_q")) is not None:
        return _packed_reference(query, key, cu_q, options)
    kv_offset = options.get("kv_offset")
    kv_offset = key.shape[2] - query.shape[2] if kv_offset is None else kv_offset
    logits = dense_logits(query, key, **options)
    largest = logits.amax(-1)
    columns = logits
    if (sinks := options.get("sinks")) is not None:
        columns = torch.cat((logits, sinks.double()[:, None, None].expand(*logits.shape[:3], 1)), -1)
    logsumexp = columns.logsumexp(-1)
    dead = (logsumexp == float("-inf"))[..., None]  # a row that sees nothing
    weights = columns.softmax(-1)[..., : key.shape[2]].masked_fill(dead, 0.0)
    entropy = -torch.xlogy(weights, weights).sum(-1)
    diagonal = weights.diagonal(kv_offset, dim1=-2, dim2=-1)
    return RowSummary(diagonal, None, weights[..., 0], logsumexp, entropy, largest)


def _packed_reference(query: Tensor, key: Tensor, cu_q: Tensor, options: QkOptions) -> RowSummary:
    cu_k = options.get("cu_seqlens_k")
    edges_q, edges_k = cu_q.tolist(), (cu_q if cu_k is None else cu_k).tolist()
    single = {name: value for name, value in options.items() if not name.startswith("cu_seqlens")}
    pieces = [
        summary_from_qk_reference(query[:, :, edges_q[n] : edges_q[n + 1]], key[:, :, edges_k[n] : edges_k[n + 1]], **single)  # type: ignore[arg-type]
        for n in range(len(edges_q) - 1)
        if edges_q[n] < edges_q[n + 1]
    ]
    diagonal, _, first, logsumexp, entropy, largest = (
        None if parts[0] is None else torch.cat(parts, -1) for parts in zip(*pieces, strict=True)
    )
    assert diagonal is not None
    return RowSummary(diagonal, None, first, logsumexp, entropy, largest)


def diagonal_from_logsumexp_reference(
    query: Tensor,
    key: Tensor,
    logsumexp: Tensor,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    kv_offset: int | None = None,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    index: Tensor | int | None = None,
    window_size: tuple[int, int] = (-1, -1),
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
) -> Tensor:
    """Float64 oracle of ``diagonal_from_logsumexp`` for rows that see a key: one query after another, from the whole score matrix."""
    batch, num_heads, q_len = query.shape[:3]
    denominator = logsumexp.double()
    if sinks is not None:
        denominator = torch.logaddexp(denominator, sinks.double()[:, None])
    logits = dense_logits(query, key, scale=scale, bias=bias, softcap=softcap)
    edges_q = [0, q_len] if cu_seqlens_q is None else cu_seqlens_q.tolist()
    edges_k = [0, key.shape[2]] if cu_seqlens_q is None else (cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k).tolist()
    out = torch.full((batch, num_heads, q_len), float("nan"), dtype=torch.float64, device=query.device)
    for start, end, low, high in zip(edges_q, edges_q[1:], edges_k, edges_k[1:], strict=False):
        own = high - end if kv_offset is None else kv_offset
        for b, h, i in itertools.product(range(batch), range(num_heads), range(start, end)):
            slot = i + own + (index if isinstance(index, int) else 0)
            if isinstance(index, torch.Tensor):
                slot = int(index[b, i] if index.dim() == 2 else index[b, h, i])
            if low <= slot < high:
                before, after = window_size
                hidden = (after >= 0 and slot - i - own > after) or (before >= 0 and i + own - slot > before)
                out[b, h, i] = 0.0 if hidden else torch.exp(logits[b, h, i, slot] - denominator[b, h, i]).clamp(0.0, 1.0)
    return out


def diagonal_from_weights_reference(weights: Tensor, *, kv_offset: int | None = None) -> Tensor:
    """Float64 oracle of ``diagonal_from_weights``: one element at a time."""
    q_len, kv_len = weights.shape[2:]
    offset = kv_len - q_len if kv_offset is None else kv_offset
    rows = [weights[:, :, i, i + offset].double().clamp(0.0, 1.0) for i in range(q_len)]
    return torch.stack(rows, -1) if rows else weights.new_empty(weights.shape[:3], dtype=torch.float64)


def received_from_logsumexp_reference(
    query: Tensor, key: Tensor, logsumexp: Tensor, query_mask: Tensor | None = None, **options: Unpack[QkOptions]
) -> Tensor:
    """Float64 oracle of ``received_from_logsumexp`` and so of the other passes, for finite or infinite logsumexp."""
    weights = weights_reference(query, key, logsumexp, **options)
    seen = (_packed_logits(query, key, **options) > -1e30) & ~logsumexp.isinf()[..., None]
    if query_mask is not None:
        weights, seen = weights * query_mask[:, None, :, None], seen & query_mask[:, None, :, None]
    return torch.stack((weights.sum(-2), seen.sum(-2).double()))


def weights_reference(query: Tensor, key: Tensor, logsumexp: Tensor, **options: Unpack[QkOptions]) -> Tensor:
    """``exp(logits - logsumexp)`` in float64, ``[batch, num_heads, q_len, kv_len]``; 0 between packed texts and in dead rows."""
    logits = _packed_logits(query, key, **options)
    lse = logsumexp.double()[..., None]
    weights = torch.exp(logits - torch.where(lse.isinf(), 0.0, lse)).clamp(max=1.0)
    return torch.where(lse.isinf() | (logits == float("-inf")), 0.0, weights)


def _packed_logits(query: Tensor, key: Tensor, **options: Unpack[QkOptions]) -> Tensor:
    """As :func:`dense_logits`, with -inf between packed texts."""
    if (cu_q := options.get("cu_seqlens_q")) is None:
        return dense_logits(query, key, **options)
    cu_k = options.get("cu_seqlens_k")
    edges_q, edges_k = cu_q.tolist(), (cu_q if cu_k is None else cu_k).tolist()
    single = {name: value for name, value in options.items() if not name.startswith("cu_seqlens")}
    logits = torch.full((*query.shape[:3], key.shape[2]), float("-inf"), dtype=torch.float64, device=query.device)
    for a, b, c, d in zip(edges_q, edges_q[1:], edges_k, edges_k[1:], strict=False):
        if a < b:
            logits[:, :, a:b, c:d] = dense_logits(query[:, :, a:b], key[:, :, c:d], **single)  # type: ignore[arg-type]
    return logits
