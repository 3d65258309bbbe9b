"""``diagonal_from_logsumexp`` on the GPU: query and key are read once; all query heads of a key head share its tile."""

from typing import Any

import torch
import triton
import triton.language as tl

from attviz.kernels.summary import empty_outputs
from attviz.kernels.triton.device_functions import soft_cap, store_aggregates, weigh
from attviz.kernels.triton.launch import (
    architecture,
    as_bytes,
    bias_strides,
    head_pad,
    is_far,
    on_device,
    outliving,
    row_strides,
    start,
    tuned,
)

HEAD_TILE = 16  # rows a program of the fused summary takes: it holds all heads of them in registers


@triton.jit
def weigh_rows(
    score, bias, row_mask, sinks, lse, head, rows, seen, columns,
    scale, softcap, kv_len, stride_bh, stride_bq, stride_bk, stride_mh, stride_mt, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Weights of one head from dot products with the keys ``columns``; the pointers stand at the batch element, 0 where not ``seen``."""
    exponent = score * scale
    if HAS_SOFTCAP:
        exponent = soft_cap(exponent, softcap)
    if bias is not None:
        added = tl.load(bias + head * stride_bh + rows * stride_bq + columns * stride_bk, mask=seen, other=0)
        if bias.dtype.element_ty == tl.uint8:
            seen = seen & (added != 0)
        else:
            exponent += added.to(tl.float32)
            seen = seen & (added.to(tl.float32) != float("-inf"))
    if row_mask is not None:
        seen = seen & (tl.load(row_mask + head * stride_mh + rows * stride_mt, mask=seen, other=0) != 0)
    if sinks is not None:
        return weigh(exponent, seen, lse, tl.load(sinks + head).to(tl.float32), kv_len, True)
    return weigh(exponent, seen, lse, 0.0, kv_len, False)


@triton.jit
def text_of(cu_q, texts, steps, rows):
    """Number of the packed text that holds each row, by bisection; rows after the last text get its number."""
    text = tl.zeros_like(rows)
    for step in range(steps):
        probe = text + (1 << (steps - 1 - step))
        start = tl.load(cu_q + probe, mask=probe < texts, other=0)
        text = tl.where((probe < texts) & (start.to(tl.int64) <= rows), probe, text)
    return text


@triton.jit(do_not_specialize=["q_len", "kv_len", "kv_offset", "texts", "steps"])
def diagonal_kernel(
    query, key, logsumexp, bias, row_mask, sinks, index, cu_q, cu_k, diagonal,
    scale, softcap, q_len, kv_len, kv_offset, shift, left, right, texts, steps, num_kv_heads,
    stride_qb, stride_qh, stride_qt, stride_qd, stride_kb, stride_kh, stride_kt, stride_kd, stride_lb, stride_lh, stride_lt,
    stride_bb, stride_bh, stride_bq, stride_bk, stride_mb, stride_mh, stride_mt, stride_ib, stride_ih, stride_it,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_PAD: tl.constexpr, HAS_SOFTCAP: tl.constexpr, EACH_HEAD: tl.constexpr,
    LSE_OF_TEXT: tl.constexpr, FAR: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program per (block of queries, key head): its tile of keys serves every query head of the group, unless each has its own."""
    blocks = tl.cdiv(q_len, BLOCK_Q)
    outer = (tl.program_id(0) // blocks).to(tl.int64)  # int64: batch * heads * length * head_dim passes 2**31 at long context
    batch, kv_head = outer // num_kv_heads, outer % num_kv_heads
    rows = (tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
    row_ok = rows < q_len
    lse_at = batch * stride_lb + rows * stride_lt
    position, low, high = rows + kv_offset, 0, kv_len
    if cu_q is not None:
        text = text_of(cu_q, texts, steps, rows)
        start, end = tl.load(cu_q + text).to(tl.int64), tl.load(cu_q + text + 1).to(tl.int64)
        low, high = tl.load(cu_k + text).to(tl.int64), tl.load(cu_k + text + 1).to(tl.int64)
        position = rows - end + high
        if LSE_OF_TEXT:
            lse_at = text * stride_lb + (rows - start) * stride_lt
    there, columns = row_ok, position
    if cu_q is not None:
        there = there & (rows < end)
    if shift is not None:
        columns += shift
    if index is not None and not EACH_HEAD:
        columns = tl.load(index + batch * stride_ib + rows * stride_it, mask=row_ok, other=-1).to(tl.int64)
    OWN: tl.constexpr = shift is None and index is None  # then the caller has seen to it that the keys are there
    seen = there if OWN else there & (columns >= low) & (columns < high)
    dims = tl.arange(0, HEAD_PAD)
    if FAR:
        dims = dims.to(tl.int64)
    dim_ok = dims[None, :] < HEAD_DIM
    keys = key + batch * stride_kb + kv_head * stride_kh + dims[None, :] * stride_kd
    if not EACH_HEAD:
        k = tl.load(keys + columns[:, None] * stride_kt, mask=seen[:, None] & dim_ok, other=0.0).to(tl.float32)
    if bias is not None:
        bias += batch * stride_bb
    if row_mask is not None:
        row_mask += batch * stride_mb
    for member in range(GROUP):
        head = kv_head * GROUP + member
        if EACH_HEAD:
            columns = tl.load(index + batch * stride_ib + head * stride_ih + rows * stride_it, mask=row_ok, other=-1).to(tl.int64)
            seen = there & (columns >= low) & (columns < high)
            k = tl.load(keys + columns[:, None] * stride_kt, mask=seen[:, None] & dim_ok, other=0.0).to(tl.float32)
        queries = query + batch * stride_qb + head * stride_qh + rows[:, None] * stride_qt + dims[None, :] * stride_qd
        q = tl.load(queries, mask=row_ok[:, None] & dim_ok, other=0.0).to(tl.float32)
        lse = tl.load(logsumexp + head * stride_lh + lse_at, mask=there, other=0.0).to(tl.float32)
        visible = seen
        if right is not None:
            visible = visible & (columns - position <= right)
        if left is not None:
            visible = visible & (position - columns <= left)
        weights = weigh_rows(
            tl.sum(q * k, axis=1), bias, row_mask, sinks, lse, head, rows, visible, columns,
            scale, softcap, kv_len, stride_bh, stride_bq, stride_bk, stride_mh, stride_mt, HAS_SOFTCAP,
        )  # fmt: skip
        if cu_q is not None or not OWN:
            weights = tl.where(seen, weights, float("nan"))
        tl.store(diagonal + (batch * num_kv_heads * GROUP + head) * q_len + rows, weights, mask=row_ok)


@triton.jit(do_not_specialize=["q_len", "kv_len", "kv_offset", "num_batches"])
def summary_kernel(
    query, key, logsumexp, bias, row_mask, sinks, diagonal, first, aggregates, scale, softcap, q_len, kv_len, kv_offset, num_batches,
    stride_qb, stride_qh, stride_qt, stride_qd, stride_kb, stride_kh, stride_kt, stride_kd,
    stride_lb, stride_lh, stride_lt, stride_bb, stride_bh, stride_bq, stride_bk, stride_mb, stride_mh, stride_mt,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_PAD: tl.constexpr, HEADS_PAD: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, FAR: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program per block of queries, over all heads: diagonal, weight on key 0, and the aggregates while both are in registers."""
    NUM_HEADS: tl.constexpr = NUM_KV_HEADS * GROUP
    blocks = tl.cdiv(q_len, BLOCK_Q)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
    row_ok, dims, heads = rows < q_len, tl.arange(0, HEAD_PAD), tl.arange(0, HEADS_PAD)
    if FAR:
        dims = dims.to(tl.int64)
    dim_ok = dims < HEAD_DIM
    tile_ok = row_ok[:, None] & dim_ok[None, :]
    values = tl.zeros([BLOCK_Q, HEADS_PAD], tl.float32)
    logsumexp += batch * stride_lb
    if bias is not None:
        bias += batch * stride_bb
    if row_mask is not None:
        row_mask += batch * stride_mb
    for number in range(NUM_HEADS):
        head = tl.cast(number, tl.int64) if FAR else number
        keys = key + batch * stride_kb + (head // GROUP) * stride_kh + dims * stride_kd
        k = tl.load(keys[None, :] + (rows + kv_offset)[:, None] * stride_kt, mask=tile_ok, other=0.0).to(tl.float32)
        k_first = tl.load(keys, mask=dim_ok, other=0.0).to(tl.float32)
        queries = query + batch * stride_qb + head * stride_qh + rows[:, None] * stride_qt + dims[None, :] * stride_qd
        q = tl.load(queries, mask=tile_ok, other=0.0).to(tl.float32)
        lse = tl.load(logsumexp + head * stride_lh + rows * stride_lt, mask=row_ok, other=0.0).to(tl.float32)
        weights = weigh_rows(
            tl.sum(q * k, axis=1), bias, row_mask, sinks, lse, head, rows, row_ok, rows + kv_offset,
            scale, softcap, kv_len, stride_bh, stride_bq, stride_bk, stride_mh, stride_mt, HAS_SOFTCAP,
        )  # fmt: skip
        on_first = weigh_rows(
            tl.sum(q * k_first[None, :], axis=1), bias, row_mask, sinks, lse, head, rows, row_ok, rows * 0,
            scale, softcap, kv_len, stride_bh, stride_bq, stride_bk, stride_mh, stride_mt, HAS_SOFTCAP,
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
    index: torch.Tensor | None,
    cu_seqlens_q: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
    shift: int,
    left: int,
    right: int,
    extras: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arguments and results of the operator ``attviz::diagonal_from_logsumexp``."""
    rules = (scale, bias, row_mask, kv_offset, softcap, sinks)
    if extras:
        return launch_summary(query, key, logsumexp, *rules)
    nothing = empty_outputs(query, query.shape[:3], False)[1:]
    return launch_diagonal(query, key, logsumexp, *rules, index, cu_seqlens_q, cu_seqlens_k, shift, left, right), *nothing


def launch_diagonal(
    query: torch.Tensor,
    key: torch.Tensor,
    logsumexp: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    row_mask: torch.Tensor | None,
    kv_offset: int,
    softcap: float,
    sinks: torch.Tensor | None,
    index: torch.Tensor | None,
    cu_seqlens_q: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
    shift: int,
    left: int,
    right: int,
) -> torch.Tensor:
    """The weights alone, in one launch. This is the hot path of a capture, so the host does as little as possible."""
    batch, num_heads, q_len, head_dim = query.shape
    _, num_kv_heads, kv_len, _ = key.shape
    diagonal = outliving((batch, num_heads, q_len), query.device)
    if diagonal.numel() == 0:
        return diagonal
    texts = 0 if cu_seqlens_q is None else cu_seqlens_q.numel() - 1
    blocks = tuned("logsumexp", architecture(query.device.index), head_pad(head_dim), query.dtype is torch.float32)
    strides = (*query.stride(), *key.stride(), *logsumexp.stride(), *bias_strides(bias), *row_strides(row_mask), *row_strides(index))
    tensors = (query, key, logsumexp, as_bytes(bias), as_bytes(row_mask), sinks, index, cu_seqlens_q, cu_seqlens_k)
    looks: tuple[int | None, ...] = (None, None, None)
    if index is not None or shift != 0 or kv_offset + q_len > kv_len:  # the own key is always seen, and there unless the queries are more
        looks = (shift, left if left >= 0 else None, right if right >= 0 else None)
    flags = (softcap > 0, index is not None and index.shape[1] > 1, texts > 0 and logsumexp.shape[0] == texts)
    sizes = (scale, softcap or 1.0, q_len, kv_len, kv_offset, *looks, texts, max(texts - 1, 0).bit_length(), num_kv_heads)
    optional = [None if tensor is None else (tensor.dtype, tensor.data_ptr() % 16) for tensor in tensors]
    known = (diagonal_kernel, query.device, *optional, strides, looks, flags, head_dim, num_heads, num_kv_heads, *blocks.values())

    def constants() -> dict[str, Any]:
        names = ("HAS_SOFTCAP", "EACH_HEAD", "LSE_OF_TEXT")
        sizes = {"GROUP": num_heads // num_kv_heads, "HEAD_DIM": head_dim, "HEAD_PAD": head_pad(head_dim)}
        return {**sizes, **dict(zip(names, flags, strict=True)), "FAR": is_far(query, key, logsumexp), "enable_fp_fusion": True, **blocks}

    programs = -(-q_len // blocks["BLOCK_Q"]) * batch * num_kv_heads
    with on_device(query):
        start(diagonal_kernel, programs, known, (*tensors, diagonal, *sizes, *strides), constants)
    return diagonal


def launch_summary(
    query: torch.Tensor,
    key: torch.Tensor,
    logsumexp: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    row_mask: torch.Tensor | None,
    kv_offset: int,
    softcap: float,
    sinks: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Diagonal, weight on key 0 and aggregates over the heads, in one launch."""
    batch, num_heads, q_len, head_dim = query.shape
    outputs = empty_outputs(query, query.shape[:3], True)
    if outputs[0].numel() == 0:
        return outputs
    num_kv_heads = key.shape[1]
    arch, single = architecture(query.device.index), query.dtype is torch.float32
    crowded = (single and arch == "sm_120") or (not single and arch == "sm_100" and head_pad(head_dim) in (64, 128))
    warps = 8 if crowded else 4  # four would spill there
    strides = (*query.stride(), *key.stride(), *logsumexp.stride(), *bias_strides(bias), *row_strides(row_mask))
    masks = (as_bytes(bias), as_bytes(row_mask), sinks)
    sizes = (scale, softcap or 1.0, q_len, key.shape[2], kv_offset, batch)
    with on_device(query):
        summary_kernel[(triton.cdiv(q_len, HEAD_TILE) * batch,)](
            query, key, logsumexp, *masks, *outputs, *sizes, *strides, NUM_KV_HEADS=num_kv_heads, GROUP=num_heads // num_kv_heads,
            HEAD_DIM=head_dim, HEAD_PAD=head_pad(head_dim), HEADS_PAD=max(2, triton.next_power_of_2(num_heads)), BLOCK_Q=HEAD_TILE,
            HAS_SOFTCAP=softcap > 0, FAR=is_far(query, key, logsumexp), num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip
    return outputs
