"""``received_from_logsumexp`` on the GPU: a block of keys walks over the queries that can see it, and adds up their weights."""

from typing import Any

import torch
import triton
import triton.language as tl

from attviz.kernels.qk import QkRules
from attviz.kernels.triton.device_functions import INFINITY, weigh_tile
from attviz.kernels.triton.launch import as_bytes, on_device
from attviz.kernels.triton.pairs import set_up, strides
from attviz.kernels.triton.qk import shape_logits

HIDDEN = tl.constexpr(-1e30)  # a mask adds this or less; no true bias comes near


@triton.jit
def add_queries(
    total, count, k, queries, logsumexp, query_mask, low, high, columns, dim_ok, slope, bias, key_mask, q_len, kv_len, alignment,
    left, right, scale, softcap, stride_qt, stride_lt, stride_rt, stride_bq, stride_bk, stride_mk,
    HAS_SOFTCAP: tl.constexpr, BOUNDED: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """Add the weights of the queries ``low`` to ``high`` to the sums of a block of keys."""
    for start in range(low, high, BLOCK_Q):
        rows = start + tl.arange(0, BLOCK_Q)
        at = rows.to(tl.int64)
        q = tl.load(queries + at[:, None] * stride_qt, mask=(rows < q_len)[:, None] & dim_ok[None, :], other=0.0)
        if UPCAST:  # the interpreter's bfloat16 product is wrong
            q = q.to(tl.float32)
        lse = tl.load(logsumexp + at * stride_lt, mask=rows < q_len, other=float("inf")).to(tl.float32)
        alive = tl.abs(lse) != INFINITY
        if query_mask is not None:
            alive = alive & (tl.load(query_mask + at * stride_rt, mask=rows < q_len, other=0) != 0)
        logits = shape_logits(
            tl.dot(k, tl.trans(q), input_precision=PRECISION), rows[None, :], columns[:, None], slope, bias, key_mask, q_len, kv_len,
            alignment, left, right, scale, softcap, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP, BOUNDED,
        )  # fmt: skip
        total += tl.sum(weigh_tile(logits, lse[None, :], alive[None, :], kv_len), axis=1)
        count += tl.sum(tl.where(alive[None, :] & (logits > HIDDEN), 1.0, 0.0), axis=1)
    return total, count


@triton.jit
def query_range(first, q_len, kv_len, alignment, left, right, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """Queries that see a block of keys: from ``low`` to ``high``, and between the two middle bounds each sees every key of it."""
    low, full_low, full_high, high = 0, 0, q_len, q_len
    last = tl.minimum(first + BLOCK_K, kv_len) - 1
    if right is not None:
        low = tl.minimum(tl.maximum(first - alignment - right, 0), q_len) // BLOCK_Q * BLOCK_Q
        full_low = tl.cdiv(tl.maximum(last - alignment - right, 0), BLOCK_Q) * BLOCK_Q
    if left is not None:
        high = tl.minimum(tl.maximum(last - alignment + left + 1, 0), q_len)
        full_high = tl.minimum(tl.maximum(first - alignment + left + 1, 0), q_len) // BLOCK_Q * BLOCK_Q
    full_low = tl.minimum(tl.maximum(full_low, low), tl.cdiv(high, BLOCK_Q) * BLOCK_Q)
    if first + BLOCK_K > kv_len:  # the last, ragged block: its keys are compared with the end everywhere
        full_low = tl.cdiv(high, BLOCK_Q) * BLOCK_Q
    return low, full_low, tl.maximum(full_high, full_low), high


@triton.jit(do_not_specialize=["q_len", "kv_len", "blocks", "total_keys", "plane"])
def received_kernel(
    query, key, logsumexp, query_mask, slopes, bias, key_mask, cu_q, cu_k, received, scale, softcap, q_len, kv_len, left, right, blocks,
    num_heads, total_keys, plane, stride_qb, stride_qh, stride_qt, stride_qd, stride_kb, stride_kh, stride_kt, stride_kd,
    stride_lb, stride_lh, stride_lt, stride_rb, stride_rt, stride_sb, stride_sh, stride_bb, stride_bh, stride_bq, stride_bk,
    stride_mb, stride_mk, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_PAD: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    BOTTOM_RIGHT: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, FAR: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program per (block of keys, sequence and head); under a causal mask the first blocks are the longest, and go first."""
    block = tl.program_id(0) % blocks
    outer = (tl.program_id(0) // blocks).to(tl.int64)  # int64: batch * heads * length * head_dim passes 2**31 at long context
    sequence, head = outer // num_heads, outer % num_heads
    query, key, logsumexp = query + head * stride_qh, key + head // GROUP * stride_kh, logsumexp + head * stride_lh
    out = received + outer * total_keys
    if cu_q is not None:
        first_q, first_k = tl.load(cu_q + sequence).to(tl.int64), tl.load(cu_k + sequence).to(tl.int64)
        q_len = (tl.load(cu_q + sequence + 1) - first_q).to(tl.int32)
        kv_len = (tl.load(cu_k + sequence + 1) - first_k).to(tl.int32)
        query, key, logsumexp = query + first_q * stride_qt, key + first_k * stride_kt, logsumexp + first_q * stride_lt
        out = received + head * total_keys + first_k
        if query_mask is not None:
            query_mask += first_q * stride_rt
    else:
        query, key, logsumexp = query + sequence * stride_qb, key + sequence * stride_kb, logsumexp + sequence * stride_lb
        if query_mask is not None:
            query_mask += sequence * stride_rb
    first = block * BLOCK_K
    if first >= kv_len:
        return
    alignment = kv_len - q_len if BOTTOM_RIGHT else 0
    if bias is not None:
        bias += sequence * stride_bb + head * stride_bh
    if key_mask is not None:
        key_mask += sequence * stride_mb
    if slopes is not None:
        slopes += sequence * stride_sb + head * stride_sh
    columns, dims = first + tl.arange(0, BLOCK_K), tl.arange(0, HEAD_PAD)
    if FAR:
        dims = dims.to(tl.int64)
    column_ok, dim_ok = columns < kv_len, dims < HEAD_DIM
    key_pointers = key + columns.to(tl.int64)[:, None] * stride_kt + dims[None, :] * stride_kd
    k = tl.load(key_pointers, mask=column_ok[:, None] & dim_ok[None, :], other=0.0)
    if UPCAST:
        k = k.to(tl.float32)
    queries = query + dims[None, :] * stride_qd
    low, full_low, full_high, high = query_range(first, q_len, kv_len, alignment, left, right, BLOCK_Q, BLOCK_K)
    total, count = tl.zeros([BLOCK_K], tl.float32), tl.zeros([BLOCK_K], tl.float32)
    total, count = add_queries(
        total, count, k, queries, logsumexp, query_mask, low, tl.minimum(full_low, high), columns, dim_ok, slopes, bias, key_mask, q_len,
        kv_len, alignment, left, right, scale, softcap, stride_qt, stride_lt, stride_rt, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP,
        True, PRECISION, UPCAST, BLOCK_Q,
    )  # fmt: skip
    total, count = add_queries(
        total, count, k, queries, logsumexp, query_mask, full_low, tl.minimum(full_high, high), columns, dim_ok, slopes, bias, key_mask,
        q_len, kv_len, alignment, left, right, scale, softcap, stride_qt, stride_lt, stride_rt, stride_bq, stride_bk, stride_mk,
        HAS_SOFTCAP, False, PRECISION, UPCAST, BLOCK_Q,
    )  # fmt: skip
    if left is not None:
        total, count = add_queries(
            total, count, k, queries, logsumexp, query_mask, full_high, high, columns, dim_ok, slopes, bias, key_mask, q_len, kv_len,
            alignment, left, right, scale, softcap, stride_qt, stride_lt, stride_rt, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP, True,
            PRECISION, UPCAST, BLOCK_Q,
        )  # fmt: skip
    tl.store(out + columns, total, mask=column_ok)
    tl.store(out + plane.to(tl.int64) + columns, count, mask=column_ok)


def launch(query: torch.Tensor, key: torch.Tensor, logsumexp: torch.Tensor, query_mask: torch.Tensor | None, *options: Any) -> torch.Tensor:
    """Arguments and result of the operator ``attviz::received_from_logsumexp``."""
    rules = QkRules.without_sinks(options)
    (batch, num_heads, q_len, _), kv_len = query.shape, key.shape[2]
    make = torch.empty if rules.cu_seqlens_q is None else torch.zeros  # behind the texts no program writes
    out = make(2, batch, num_heads, kv_len, dtype=torch.float32, device=query.device)
    if out.numel() == 0 or q_len == 0:
        return out.zero_()
    sequences, given = set_up("received", query, key, rules, logsumexp)
    blocks = triton.cdiv(kv_len, given["BLOCK_K"])
    row_mask_strides = (0, 0) if query_mask is None else query_mask.expand(batch, q_len).stride()
    with on_device(query):
        received_kernel[(blocks * num_heads * sequences,)](
            **given, logsumexp=logsumexp, query_mask=as_bytes(query_mask), received=out, blocks=blocks, total_keys=kv_len,
            plane=out.stride(0), **strides("lb lh lt", logsumexp.stride()), **strides("rb rt", row_mask_strides),
        )  # fmt: skip
    return out
