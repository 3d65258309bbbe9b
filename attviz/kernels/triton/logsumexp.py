"""``diagonal_from_logsumexp`` on the GPU: query and key are read once; all query heads of a key head share its tile."""

import torch
import triton
import triton.language as tl

from attviz.kernels.summary import empty_outputs
from attviz.kernels.triton.device_functions import soft_cap, store_aggregates, weigh
from attviz.kernels.triton.launch import architecture, as_bytes, bias_strides, head_pad, on_device, tuned

HEAD_TILE = 16  # rows a program of the fused summary takes: it holds all heads of them in registers


@triton.jit
def weigh_rows(
    score, bias, row_mask, sinks, logsumexp, head, rows, row_ok, columns,
    scale, softcap, kv_len, stride_bh, stride_bq, stride_bk, stride_mh, stride_mt, stride_lh, stride_lt,
    HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Weights of one head from dot products with the keys ``columns``; the pointers stand at the batch element."""
    exponent = score * scale
    if HAS_SOFTCAP:
        exponent = soft_cap(exponent, softcap)
    seen = row_ok
    if bias is not None:
        added = tl.load(bias + head * stride_bh + rows * stride_bq + columns * stride_bk, mask=row_ok, other=0)
        if bias.dtype.element_ty == tl.uint8:
            seen = seen & (added != 0)
        else:
            exponent += added.to(tl.float32)
            seen = seen & (added.to(tl.float32) != float("-inf"))
    if row_mask is not None:
        seen = seen & (tl.load(row_mask + head * stride_mh + rows * stride_mt, mask=row_ok, other=0) != 0)
    lse = tl.load(logsumexp + head * stride_lh + rows * stride_lt, mask=row_ok, other=0.0).to(tl.float32)
    if sinks is not None:
        return weigh(exponent, seen, lse, tl.load(sinks + head).to(tl.float32), kv_len, True)
    return weigh(exponent, seen, lse, 0.0, kv_len, False)


@triton.jit(do_not_specialize=["q_len", "kv_len", "kv_offset"])
def diagonal_kernel(
    query, key, logsumexp, bias, row_mask, sinks, diagonal, scale, softcap, q_len, kv_len, kv_offset, num_kv_heads,
    stride_qb, stride_qh, stride_qt, stride_qd, stride_kb, stride_kh, stride_kt, stride_kd,
    stride_lb, stride_lh, stride_lt, stride_bb, stride_bh, stride_bq, stride_bk, stride_mb, stride_mh, stride_mt,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_PAD: tl.constexpr, HAS_SOFTCAP: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program per (block of queries, key head): its tile of own keys serves every query head of the group."""
    blocks = tl.cdiv(q_len, BLOCK_Q)
    outer = (tl.program_id(0) // blocks).to(tl.int64)  # int64: batch * heads * length * head_dim passes 2**31 at long context
    batch, kv_head = outer // num_kv_heads, outer % num_kv_heads
    rows = (tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
    row_ok = rows < q_len
    dims = tl.arange(0, HEAD_PAD)
    tile_ok = row_ok[:, None] & (dims[None, :] < HEAD_DIM)
    keys = key + batch * stride_kb + kv_head * stride_kh + (rows + kv_offset)[:, None] * stride_kt + dims[None, :] * stride_kd
    k = tl.load(keys, mask=tile_ok, other=0.0).to(tl.float32)
    if bias is not None:
        bias += batch * stride_bb
    if row_mask is not None:
        row_mask += batch * stride_mb
    for member in range(GROUP):
        head = kv_head * GROUP + member
        queries = query + batch * stride_qb + head * stride_qh + rows[:, None] * stride_qt + dims[None, :] * stride_qd
        q = tl.load(queries, mask=tile_ok, other=0.0).to(tl.float32)
        weights = weigh_rows(
            tl.sum(q * k, axis=1), bias, row_mask, sinks, logsumexp + batch * stride_lb, head, rows, row_ok, rows + kv_offset,
            scale, softcap, kv_len, stride_bh, stride_bq, stride_bk, stride_mh, stride_mt, stride_lh, stride_lt, HAS_SOFTCAP,
        )  # fmt: skip
        tl.store(diagonal + (batch * num_kv_heads * GROUP + head) * q_len + rows, weights, mask=row_ok)


@triton.jit(do_not_specialize=["q_len", "kv_len", "kv_offset"])
def summary_kernel(
    query, key, logsumexp, bias, row_mask, sinks, diagonal, first, aggregates, scale, softcap, q_len, kv_len, kv_offset, num_batches,
    stride_qb, stride_qh, stride_qt, stride_qd, stride_kb, stride_kh, stride_kt, stride_kd,
    stride_lb, stride_lh, stride_lt, stride_bb, stride_bh, stride_bq, stride_bk, stride_mb, stride_mh, stride_mt,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_PAD: tl.constexpr, HEADS_PAD: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program per block of queries, over all heads: diagonal, weight on key 0, and the aggregates while both are in registers."""
    NUM_HEADS: tl.constexpr = NUM_KV_HEADS * GROUP
    blocks = tl.cdiv(q_len, BLOCK_Q)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
    row_ok, dims, heads = rows < q_len, tl.arange(0, HEAD_PAD), tl.arange(0, HEADS_PAD)
    dim_ok = dims < HEAD_DIM
    tile_ok = row_ok[:, None] & dim_ok[None, :]
    values = tl.zeros([BLOCK_Q, HEADS_PAD], tl.float32)
    logsumexp += batch * stride_lb
    if bias is not None:
        bias += batch * stride_bb
    if row_mask is not None:
        row_mask += batch * stride_mb
    for head in range(NUM_HEADS):
        keys = key + batch * stride_kb + (head // GROUP) * stride_kh + dims * stride_kd
        k = tl.load(keys[None, :] + (rows + kv_offset)[:, None] * stride_kt, mask=tile_ok, other=0.0).to(tl.float32)
        k_first = tl.load(keys, mask=dim_ok, other=0.0).to(tl.float32)
        queries = query + batch * stride_qb + head * stride_qh + rows[:, None] * stride_qt + dims[None, :] * stride_qd
        q = tl.load(queries, mask=tile_ok, other=0.0).to(tl.float32)
        weights = weigh_rows(
            tl.sum(q * k, axis=1), bias, row_mask, sinks, logsumexp, head, rows, row_ok, rows + kv_offset,
            scale, softcap, kv_len, stride_bh, stride_bq, stride_bk, stride_mh, stride_mt, stride_lh, stride_lt, HAS_SOFTCAP,
        )  # fmt: skip
        on_first = weigh_rows(
            tl.sum(q * k_first[None, :], axis=1), bias, row_mask, sinks, logsumexp, head, rows, row_ok, rows * 0,
            scale, softcap, kv_len, stride_bh, stride_bq, stride_bk, stride_mh, stride_mt, stride_lh, stride_lt, HAS_SOFTCAP,
        )  # fmt: skip
        out = (batch * NUM_HEADS + head) * q_len + rows
        tl.store(diagonal + out, weights, mask=row_ok)
        tl.store(first + out, on_first, mask=row_ok)
        values = tl.where(heads[None, :] == head, weights[:, None], values)
    plane = num_batches.to(tl.int64) * q_len
    store_aggregates(aggregates, values, heads, batch * q_len + rows, row_ok, plane, NUM_HEADS)


def launch(
    query: torch.Tensor,
    key: torch.Tensor,
    logsumexp: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    row_mask: torch.Tensor | None,
    kv_offset: int,
    softcap: float,
    sinks: torch.Tensor | None,
    extras: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arguments and results of the operator ``attviz::diagonal_from_logsumexp``."""
    batch, num_heads, q_len, head_dim = query.shape
    outputs = empty_outputs(query, query.shape[:3], extras)
    if outputs[0].numel() == 0:
        return outputs
    num_kv_heads, kv_len, width = key.shape[1], key.shape[2], head_pad(head_dim)
    mask_strides = (0, 0, 0) if row_mask is None else row_mask.expand(batch, num_heads, q_len).stride()
    strides = (*query.stride(), *key.stride(), *logsumexp.stride(), *bias_strides(bias), *mask_strides)
    inputs = (query, key, logsumexp, as_bytes(bias), as_bytes(row_mask), sinks)
    sizes = (scale, softcap or 1.0, q_len, kv_len, kv_offset)
    shared = {"GROUP": num_heads // num_kv_heads, "HEAD_DIM": head_dim, "HEAD_PAD": width, "HAS_SOFTCAP": softcap > 0}
    with on_device(query):
        if extras:
            grid = (triton.cdiv(q_len, HEAD_TILE) * batch,)
            heads_pad = max(2, triton.next_power_of_2(num_heads))
            extra = {"NUM_KV_HEADS": num_kv_heads, "HEADS_PAD": heads_pad, "BLOCK_Q": HEAD_TILE, "num_warps": 4, "enable_fp_fusion": True}
            summary_kernel[grid](*inputs, *outputs, *sizes, batch, *strides, **shared, **extra)
        else:
            blocks = tuned("logsumexp", architecture(query.device.index), width, query.dtype is torch.float32)
            grid = (triton.cdiv(q_len, blocks["BLOCK_Q"]) * batch * num_kv_heads,)
            diagonal_kernel[grid](*inputs, outputs[0], *sizes, num_kv_heads, *strides, **shared, **blocks, enable_fp_fusion=True)
    return outputs
