"""The arithmetic of the identity ``A[i, i] = exp(scale * q_i.k_i + bias_ii - logsumexp_i)`` in plain torch.

There is no custom operator here: the capture's hot path calls these functions directly from inside the attention operator, and the
torch.library ops use them as their implementation outside CUDA. Nothing waits for the device, and nothing is checked twice: the public
functions of :mod:`attviz.kernels` check, these compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attviz.errors import ShapeError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_CPU_CHUNK = 1 << 19  # products held at once: 2 MiB of float32 stays in the cache; three times faster than one large product
_LARGE = 1 << 17  # elements of a query from which a batch of matrix products is faster than a product and its sum
_EXACT = ("none", "ieee")  # how PyTorch says that matrix products of float32 are float32
_DEVICE_CHUNK = 1 << 24  # an accelerator wants few launches, not a small cache footprint
NEVER = torch.finfo(torch.float32).min / 2  # a logsumexp below this says: every key carries a finfo.min mask


def self_scores(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    kv_offset: int = 0,
) -> Float[Tensor, "batch num_heads q_len"]:
    """Dot product of each query with the key of its own position, unscaled.

    Sums in float32 (float64 for float64 inputs); half types are cast before the product, because a native half-precision ``vecdot`` is
    off by 1e-2. Grouped-query heads share their key without repeating it. Any strides; at most 6 MiB of temporaries on the CPU.

    Args:
        query: After positional encoding.
        key: Before ``repeat_kv``; ``num_kv_heads`` divides ``num_heads``.
        kv_offset: Key slot of query 0: query ``i`` is at key ``i + kv_offset``.

    Returns:
        ``q_i . k_(i + kv_offset)``, not a probability yet: see :func:`weights_from_scores`.

    Example:
        >>> self_scores(torch.ones(1, 2, 3, 4), torch.full((1, 1, 3, 4), 0.5))
        tensor([[[2., 2., 2.],
                 [2., 2., 2.]]])
    """
    batch, num_heads, q_len, head_dim = query.shape
    _, num_kv_heads, kv_len, _ = key.shape
    if kv_len != q_len:
        key = key[:, :, kv_offset : kv_offset + q_len]
    plain = query.dtype is torch.float32 and key.dtype is torch.float32
    if plain and query.numel() > _LARGE and _as_matrices(query, key):
        return _batched_dots(query, key)
    grouped = num_kv_heads != num_heads
    if grouped:
        query = query.view(batch, num_kv_heads, num_heads // num_kv_heads, q_len, head_dim)
        key = key.unsqueeze(2)
    if plain and query.numel() <= _CPU_CHUNK:
        scores: Tensor = torch.linalg.vecdot(query, key)  # one dispatch, for every attention pays it
    else:
        scores = _chunked_vecdot(query, key)
    return scores.view(batch, num_heads, q_len) if grouped else scores


def _as_matrices(query: Tensor, key: Tensor) -> bool:
    """Whether batched matrix products can be used: on the CPU, in the layout of projections, and not silently in bfloat16."""
    return (
        query.device.type == "cpu"
        and query.transpose(1, 2).is_contiguous()
        and key.transpose(1, 2).is_contiguous()
        and torch.backends.mkldnn.matmul.fp32_precision in _EXACT  # type: ignore[attr-defined]
        and torch.backends.fp32_precision in _EXACT  # type: ignore[attr-defined]
    )


def _batched_dots(query: Tensor, key: Tensor) -> Tensor:
    """One small matrix product per token and key head, which allocates nothing of the size of the query."""
    batch, num_heads, q_len, head_dim = query.shape
    keys = key.transpose(1, 2).reshape(-1, head_dim, 1)
    queries = query.transpose(1, 2).reshape(len(keys), -1, head_dim)
    return torch.bmm(queries, keys).view(batch, q_len, num_heads).transpose(1, 2)


def _chunked_vecdot(query: Tensor, key: Tensor) -> Tensor:
    """``vecdot`` over slices of dimension -2, so that the product it materialises stays small."""
    q_len = query.shape[-2]
    exact = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
    chunk = _CPU_CHUNK if query.device.type == "cpu" else _DEVICE_CHUNK
    if query.numel() <= chunk:
        scores: Tensor = torch.linalg.vecdot(query.to(exact), key.to(exact))
        return scores
    if query.dtype is not exact:
        chunk //= 2  # the casts of both operands are alive together with the product
    rows = max(1, chunk * q_len // query.numel())
    scores = query.new_empty(query.shape[:-1], dtype=exact)
    for start in range(0, q_len, rows):
        here = slice(start, start + rows)
        torch.linalg.vecdot(query[..., here, :].to(exact), key[..., here, :].to(exact), out=scores[..., here])
    return scores


def weights_from_scores(
    scores: Float[Tensor, "batch num_heads q_len"],
    logsumexp: Float[Tensor, "batch num_heads q_len"],
    scale: float,
    diagonal_bias: Tensor | None = None,
    row_mask: Bool[Tensor, "#batch #num_heads q_len"] | None = None,
    *,
    kv_len: int,
    softcap: float = 0.0,
    sinks: Float[Tensor, " num_heads"] | None = None,
) -> Float[Tensor, "batch num_heads q_len"]:
    """Attention weight of each query on its own key, from the self score and the row's log-sum-exp.

    ``exp(cap(scale * score) + bias_ii - logsumexp)`` with ``cap(s) = softcap * tanh(s / softcap)``, clamped to [0, 1]: rounding may
    push it above 1 by about ``eps * |logsumexp|``. A row that sees no key has weight 0, never NaN, whatever its backend writes into the
    logsumexp (0, +inf or -inf); a row masked everywhere with ``finfo.min`` is uniform, hence ``1 / kv_len``. NaN in the inputs stays NaN.

    Args:
        scores: From :func:`self_scores`, unscaled.
        logsumexp: Natural logarithm, in the layout of :func:`rows_of_logsumexp`.
        scale: Factor on the scores.
        diagonal_bias: From :func:`diagonal_of_bias`: additive, or bool with True where the own key is seen.
        row_mask: True where the query sees at least one key. Needed if a backend returns the logsumexp 0 for a dead row.
        kv_len: Keys in the row.
        softcap: Cap of the scaled scores (Gemma 2); 0 means none.
        sinks: Learned logit of each head that joins the denominator (GPT-OSS), if ``logsumexp`` does not include it yet.

    Example:
        >>> weights_from_scores(torch.zeros(1, 1, 2), torch.log(torch.tensor([[[1.0, 2.0]]])), 1.0, kv_len=2)
        tensor([[[1.0000, 0.5000]]])
    """
    exponent = scores * scale
    if softcap:
        exponent = torch.tanh(exponent / softcap) * softcap
    if row_mask is None and sinks is None and _ordinary(logsumexp, diagonal_bias):
        if diagonal_bias is not None:
            exponent = exponent + diagonal_bias
        return exponent.sub_(logsumexp).exp_().clamp_(0.0, 1.0).float()
    denominator = logsumexp.to(exponent.dtype)
    if sinks is not None:
        denominator = torch.logaddexp(denominator, sinks.to(exponent.dtype)[:, None])
    seen = logsumexp.isinf().logical_not_()
    if row_mask is not None:
        seen = seen & row_mask
    if diagonal_bias is not None:
        if diagonal_bias.dtype is torch.bool:
            seen = seen & diagonal_bias
        else:
            exponent = exponent + diagonal_bias
            seen = seen & (diagonal_bias != float("-inf"))
    weights = torch.exp(exponent - denominator).clamp_(0.0, 1.0).float()
    if sinks is None:
        weights = torch.where(logsumexp <= NEVER, 1.0 / max(kv_len, 1), weights)
    return torch.where(seen, weights, 0.0)


def _ordinary(logsumexp: Tensor, diagonal_bias: Tensor | None) -> bool:
    """Whether every row is known to see a key: checked on the CPU only, where that is free and ``torch.where`` is expensive."""
    if logsumexp.device.type != "cpu" or logsumexp.numel() == 0 or (diagonal_bias is not None and diagonal_bias.dtype is torch.bool):
        return False
    least, largest = torch.aminmax(logsumexp)
    return float(least) > NEVER and float(largest) < float("inf")  # NaN is neither


def rows_of_logsumexp(logsumexp: Tensor, batch: int, num_heads: int, q_len: int) -> Float[Tensor, "batch num_heads q_len"]:
    """View a backend's log-sum-exp as ``[batch, num_heads, q_len]``.

    Takes ``[batch, num_heads, at least q_len]`` (memory-efficient attention pads to a multiple of 32), ``[batch, num_heads, q_len, 1]``
    (cuDNN), and the packed ``[num_heads, q_len]`` or ``[q_len, num_heads]`` of variable-length kernels, whose batch is 1. Heads come
    first if both packed layouts fit.

    Raises:
        ShapeError: If it is not one of these, for instance empty because the kernel was not asked to return it.

    Example:
        >>> rows_of_logsumexp(torch.zeros(2, 3, 32), 2, 3, 5).shape
        torch.Size([2, 3, 5])
    """
    shape = tuple(logsumexp.shape)
    if len(shape) == 4 and shape[3] == 1:
        logsumexp, shape = logsumexp[..., 0], shape[:3]
    if len(shape) == 2 and batch == 1:
        if shape[0] == num_heads and shape[1] >= q_len:
            logsumexp, shape = logsumexp[None], (1, *shape)
        elif shape == (q_len, num_heads):
            return logsumexp.mT[None]
    if len(shape) == 3 and shape[:2] == (batch, num_heads) and shape[2] >= q_len:
        return logsumexp if shape[2] == q_len else logsumexp[:, :, :q_len]
    raise ShapeError(
        f"rows_of_logsumexp: a log-sum-exp of unknown layout, shape {tuple(logsumexp.shape)} for batch={batch} "
        f"num_heads={num_heads} q_len={q_len}.\n  Known: [batch, num_heads, >= q_len], [batch, num_heads, q_len, 1], and for batch=1 "
        f"[num_heads, >= q_len] or [q_len, num_heads]. An empty tensor means that the kernel was not asked to return it."
    )


def diagonal_of_bias(bias: Tensor, q_len: int, kv_offset: int = 0) -> Tensor:
    """View of ``bias[..., i, i + kv_offset]``: what a mask or bias adds to each query's own score.

    Args:
        bias: Broadcastable to ``[batch, num_heads, q_len, kv_len]`` with 1 to 4 dimensions; bool or float.
        q_len: Number of queries.
        kv_offset: Key slot of query 0.

    Returns:
        A view of shape ``[..., q_len]`` (``[..., 1]`` if both last dimensions are 1) that broadcasts to ``[batch, num_heads, q_len]``.

    Raises:
        ShapeError: If the bias has no or more than four dimensions, or does not reach every query's own key.

    Example:
        >>> diagonal_of_bias(torch.arange(12.0).view(3, 4), q_len=3, kv_offset=1)
        tensor([ 1.,  6., 11.])
    """
    if not 1 <= bias.dim() <= 4:
        raise ShapeError(f"diagonal_of_bias: a bias must have 1 to 4 dimensions, got {bias.dim()}: {tuple(bias.shape)}.")
    rows = 1 if bias.dim() == 1 else bias.shape[-2]
    columns = bias.shape[-1]
    if rows not in (1, q_len) or (columns != 1 and columns < kv_offset + q_len):
        raise ShapeError(
            f"diagonal_of_bias: the last two dimensions must broadcast to [q_len, kv_len] with kv_len >= q_len + kv_offset, "
            f"got bias {tuple(bias.shape)} with q_len={q_len} kv_offset={kv_offset}."
        )
    if bias.dim() == 1:
        return bias if columns == 1 else bias[kv_offset : kv_offset + q_len]
    if columns == 1:
        return bias[..., 0]
    if rows == 1:
        return bias[..., 0, kv_offset : kv_offset + q_len]
    return bias.diagonal(kv_offset, dim1=-2, dim2=-1)[..., :q_len]
