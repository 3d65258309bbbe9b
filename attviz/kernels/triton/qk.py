"""``diagonal_from_qk`` on the GPU: the forward of flash attention without values, plus the sums that the summary needs.

Logits are in base 2 (scaled by log2 e), like the hardware's exponential. The own logit and that of key 0 are plain float32
dot products before the loop; only the log-sum-exp needs the matrix instruction.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from attviz.kernels.qk import QkRules
from attviz.kernels.triton.device_functions import INFINITY, LOG2E, LOWEST, soft_cap
from attviz.kernels.triton.launch import on_device
from attviz.kernels.triton.pairs import own_keys, set_up

LN2 = tl.constexpr(0.6931471805599453)
FLOOR = tl.constexpr(-1e30)  # shifted logits below this weigh exactly 0; the bound keeps 0 * inf out of the entropy


@triton.jit
def shape_logits(
    scores, rows, columns, slope, bias, key_mask, q_len, kv_len, alignment, left, right, scale, softcap,
    stride_bq, stride_bk, stride_mk, HAS_SOFTCAP: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """Dot products to base-2 logits: scale, cap, ALiBi, bias; -inf for hidden keys.

    ``rows`` and ``columns`` broadcast to the shape of ``scores``: a tile, or the own keys of a block of rows. ``BOUNDED`` is False for
    a tile that lies wholly inside the keys and the window, where comparing would change nothing.
    """
    if HAS_SOFTCAP:
        logits = soft_cap(scores * scale, softcap) * LOG2E
    else:
        logits = scores * (scale * LOG2E)
    distance = columns - (rows + alignment)
    if slope is not None:
        logits -= tl.load(slope).to(tl.float32) * LOG2E * tl.abs(distance).to(tl.float32)
    if BOUNDED:
        inside = (columns < kv_len) & (columns >= 0)
        ok = (rows < q_len) & inside
    else:
        inside = columns >= 0
        ok = (rows < q_len) & inside  # no runtime bound along the keys: the compiler keeps its vector loads
    if bias is not None:
        added = tl.load(bias + rows.to(tl.int64) * stride_bq + columns.to(tl.int64) * stride_bk, mask=ok, other=0)
        if bias.dtype.element_ty == tl.uint8:
            logits = tl.where(added != 0, logits, -INFINITY)
        else:
            added = added.to(tl.float32)
            in_base_2 = tl.maximum(added * LOG2E, LOWEST)  # finfo.min hides a key without making it -inf: it must not overflow
            logits += tl.where(added == -INFINITY, -INFINITY, in_base_2)
    if key_mask is not None:
        kept = tl.load(key_mask + columns.to(tl.int64) * stride_mk, mask=inside, other=0)
        logits = tl.where(kept != 0, logits, -INFINITY)
    if BOUNDED:
        seen = inside
        if right is not None:
            seen = seen & (distance <= right)
        if left is not None:
            seen = seen & (distance >= -left)
        logits = tl.where(seen, logits, -INFINITY)
    return logits


@triton.jit
def fold_tiles(
    top, total, moment, q, keys, low, high, rows, dim_ok, slope, bias, key_mask, q_len, kv_len, alignment, left, right, scale, softcap,
    stride_kt, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP: tl.constexpr, BOUNDED: tl.constexpr, SUMMARY: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Fold the keys ``low`` to ``high`` into the running maximum, sum and moment of each row (arXiv:1805.02867)."""
    for start in range(low, high, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        k = tl.load(keys + columns.to(tl.int64)[:, None] * stride_kt, mask=(columns < kv_len)[:, None] & dim_ok[None, :], other=0.0)
        if UPCAST:  # the interpreter's bfloat16 product is wrong
            k = k.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        logits = shape_logits(
            scores, rows[:, None], columns[None, :], slope, bias, key_mask, q_len, kv_len, alignment, left, right, scale, softcap,
            stride_bq, stride_bk, stride_mk, HAS_SOFTCAP, BOUNDED,
        )  # fmt: skip
        new_top = tl.maximum(top, tl.max(logits, axis=1))
        anchor = tl.where(new_top == -INFINITY, 0.0, new_top)  # nothing seen yet: any finite anchor serves
        shifted = logits - anchor[:, None]
        weights = tl.exp2(shifted)
        shrink = tl.exp2(top - anchor)
        if SUMMARY:
            moved = tl.maximum(top - anchor, FLOOR) * total
            moment = (moment + moved) * shrink + tl.sum(weights * tl.maximum(shifted, FLOOR), axis=1)
        total = total * shrink + tl.sum(weights, axis=1)
        top = new_top
    return top, total, moment


@triton.jit
def key_range(block, q_len, kv_len, alignment, left, right, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """Keys that a block of queries sees: from ``low`` to ``high``, and between the two middle bounds every row sees every key."""
    begin = block * BLOCK_Q + alignment  # position of the first query, then of the last
    end = tl.minimum(block * BLOCK_Q + BLOCK_Q, q_len) - 1 + alignment
    low, full_low, full_high, high = 0, 0, kv_len // BLOCK_K * BLOCK_K, kv_len
    if right is not None:
        high = tl.maximum(tl.minimum(kv_len, end + right + 1), 0)
        full_high = tl.maximum(tl.minimum(kv_len, begin + right + 1), 0) // BLOCK_K * BLOCK_K
    if left is not None:
        low = tl.maximum(begin - left, 0) // BLOCK_K * BLOCK_K
        full_low = tl.minimum(tl.cdiv(tl.maximum(end - left, 0), BLOCK_K), tl.cdiv(high, BLOCK_K)) * BLOCK_K
    return low, full_low, tl.maximum(full_high, full_low), high


@triton.jit
def own_logits(
    q, key, rows, dims, columns, row_ok, slope, bias, key_mask, q_len, kv_len, alignment, left, right, scale, softcap,
    stride_kt, stride_kd, stride_bq, stride_bk, stride_mk, HEAD_DIM: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Logit of each row with one key of its own, ``columns``, as a plain float32 dot product."""
    ok = row_ok & (columns < kv_len) & (columns >= 0)
    pointers = key + columns.to(tl.int64)[:, None] * stride_kt + dims[None, :] * stride_kd
    k = tl.load(pointers, mask=ok[:, None] & (dims[None, :] < HEAD_DIM), other=0.0)
    return shape_logits(
        tl.sum(q.to(tl.float32) * k.to(tl.float32), axis=1), rows, columns, slope, bias, key_mask, q_len, kv_len, alignment,
        left, right, scale, softcap, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP, True,
    )  # fmt: skip


@triton.jit
def store_rows(
    diagonal, plane, out, rows_ok, own, first, top, total, moment, sink, HAS_SINK: tl.constexpr, SUMMARY: tl.constexpr
):  # fmt: skip
    """Normalise: diagonal, then (summary) log-sum-exp, entropy, largest logit and weight on key 0. A row that saw nothing has weight 0."""
    alive = total != 0.0  # NaN is alive: it must show
    log_total = tl.log2(total)
    everything, shift, mass = top + log_total, log_total, tl.zeros_like(total) + 1.0
    if HAS_SINK:  # log2(1 + 2**d) with d = sink - logsumexp, without overflow
        d = tl.where(alive, sink * LOG2E - everything, 0.0)
        tail = tl.log2(1.0 + tl.exp2(-tl.abs(d)))
        shift = log_total + tl.maximum(d, 0.0) + tail
        mass = tl.exp2(log_total - shift)
        everything = tl.where(d > 0, sink * LOG2E, everything) + tail  # not top + shift: beside finfo.min the sink would vanish
    share = mass / total  # not exp2(own - logsumexp): beside finfo.min the logarithm of the total would vanish
    weights = tl.exp2(own - top) * share
    tl.store(diagonal + out, tl.where(alive, tl.where(weights > 1.0, 1.0, weights), 0.0), mask=rows_ok)
    if SUMMARY:
        dead_lse = top * LN2
        if HAS_SINK:
            dead_lse = tl.zeros_like(top) + sink
        on_first = tl.exp2(first - top) * share
        entropy = mass * (shift - moment / total) * LN2
        plane = plane.to(tl.int64)
        tl.store(diagonal + plane + out, tl.where(alive, everything * LN2, dead_lse), mask=rows_ok)
        tl.store(diagonal + 2 * plane + out, tl.where(alive, entropy, 0.0), mask=rows_ok)
        tl.store(diagonal + 3 * plane + out, top * LN2, mask=rows_ok)
        tl.store(diagonal + 4 * plane + out, tl.where(alive, tl.where(on_first > 1.0, 1.0, on_first), 0.0), mask=rows_ok)


@triton.jit
def locate(
    query, key, out, packed_out, cu_q, cu_k, sequence, q_len, kv_len, stride_qb, stride_qt, stride_kb, stride_kt
):  # fmt: skip
    """Move the pointers to a sequence: to its batch element, or where the boundaries of packed sequences say, with its lengths."""
    if cu_q is not None:
        first_q, first_k = tl.load(cu_q + sequence).to(tl.int64), tl.load(cu_k + sequence).to(tl.int64)
        q_len = (tl.load(cu_q + sequence + 1) - first_q).to(tl.int32)
        kv_len = (tl.load(cu_k + sequence + 1) - first_k).to(tl.int32)
        return query + first_q * stride_qt, key + first_k * stride_kt, packed_out + first_q, q_len, kv_len
    else:
        return query + sequence * stride_qb, key + sequence * stride_kb, out, q_len, kv_len


@triton.jit(do_not_specialize=["q_len", "kv_len", "kv_offset", "blocks", "total_rows", "plane"])
def qk_kernel(
    query, key, sinks, slopes, bias, key_mask, cu_q, cu_k, diagonal, scale, softcap, q_len, kv_len, kv_offset, left, right, blocks,
    num_heads, total_rows, plane, stride_qb, stride_qh, stride_qt, stride_qd, stride_kb, stride_kh, stride_kt, stride_kd,
    stride_sb, stride_sh, stride_bb, stride_bh, stride_bq, stride_bk, stride_mb, stride_mk,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_PAD: tl.constexpr, HAS_SOFTCAP: tl.constexpr, OWN_LAST: tl.constexpr,
    BOTTOM_RIGHT: tl.constexpr, SUMMARY: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    FAR: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program per (block of queries, sequence and head); the last blocks go first, because they are the longest under a causal mask."""
    block = blocks - 1 - tl.program_id(0) % blocks
    outer = (tl.program_id(0) // blocks).to(tl.int64)  # int64: batch * heads * length * head_dim passes 2**31 at long context
    sequence, head = outer // num_heads, outer % num_heads
    query, key, out, q_len, kv_len = locate(
        query + head * stride_qh, key + head // GROUP * stride_kh, outer * total_rows, head * total_rows, cu_q, cu_k, sequence,
        q_len, kv_len, stride_qb, stride_qt, stride_kb, stride_kt,
    )  # fmt: skip
    if block * BLOCK_Q >= q_len:
        return
    if OWN_LAST:
        kv_offset = kv_len - q_len
    alignment = kv_len - q_len if BOTTOM_RIGHT else 0
    if bias is not None:
        bias += sequence * stride_bb + head * stride_bh
    if key_mask is not None:
        key_mask += sequence * stride_mb
    if slopes is not None:
        slopes += sequence * stride_sb + head * stride_sh

    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    dims = tl.arange(0, HEAD_PAD)
    if FAR:
        dims = dims.to(tl.int64)
    row_ok, dim_ok = rows < q_len, dims < HEAD_DIM
    row_pointers = query + rows.to(tl.int64)[:, None] * stride_qt + dims[None, :] * stride_qd
    q = tl.load(row_pointers, mask=row_ok[:, None] & dim_ok[None, :], other=0.0)
    own = own_logits(
        q, key, rows, dims, rows + kv_offset, row_ok, slopes, bias, key_mask, q_len, kv_len, alignment, left, right, scale, softcap,
        stride_kt, stride_kd, stride_bq, stride_bk, stride_mk, HEAD_DIM, HAS_SOFTCAP,
    )  # fmt: skip
    first = own
    if SUMMARY:
        first = own_logits(
            q, key, rows, dims, rows * 0, row_ok, slopes, bias, key_mask, q_len, kv_len, alignment, left, right, scale, softcap,
            stride_kt, stride_kd, stride_bq, stride_bk, stride_mk, HEAD_DIM, HAS_SOFTCAP,
        )  # fmt: skip
    keys = key + dims[None, :] * stride_kd
    if UPCAST:
        q = q.to(tl.float32)
    low, full_low, full_high, high = key_range(block, q_len, kv_len, alignment, left, right, BLOCK_Q, BLOCK_K)
    top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total, moment = tl.zeros([BLOCK_Q], tl.float32), tl.zeros([BLOCK_Q], tl.float32)
    if left is not None:
        top, total, moment = fold_tiles(
            top, total, moment, q, keys, low, full_low, rows, dim_ok, slopes, bias, key_mask, q_len, kv_len, alignment, left, right,
            scale, softcap, stride_kt, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP, True, SUMMARY, PRECISION, UPCAST, BLOCK_K,
        )  # fmt: skip
    top, total, moment = fold_tiles(
        top, total, moment, q, keys, full_low, full_high, rows, dim_ok, slopes, bias, key_mask, q_len, kv_len, alignment, left, right,
        scale, softcap, stride_kt, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP, False, SUMMARY, PRECISION, UPCAST, BLOCK_K,
    )  # fmt: skip
    top, total, moment = fold_tiles(
        top, total, moment, q, keys, full_high, high, rows, dim_ok, slopes, bias, key_mask, q_len, kv_len, alignment, left, right,
        scale, softcap, stride_kt, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP, True, SUMMARY, PRECISION, UPCAST, BLOCK_K,
    )  # fmt: skip
    if sinks is not None:
        sink = tl.load(sinks + head).to(tl.float32)
        store_rows(diagonal, plane, out + rows, row_ok, own, first, top, total, moment, sink, True, SUMMARY)
    else:
        store_rows(diagonal, plane, out + rows, row_ok, own, first, top, total, moment, 0.0, False, SUMMARY)


def launch(query: torch.Tensor, key: torch.Tensor, *options: Any) -> torch.Tensor:
    """Arguments and result of the operator ``attviz::diagonal_from_qk``: the rules, and whether the summary is wanted."""
    rules, summary = QkRules._make(options[:-1]), options[-1]
    batch, num_heads, q_len, _ = query.shape
    out = torch.empty(5 if summary else 1, batch, num_heads, q_len, dtype=torch.float32, device=query.device)
    if rules.cu_seqlens_q is not None:
        out.fill_(torch.nan)  # behind the texts no program writes
    if out.numel() == 0:
        return out
    sequences, given = set_up("qk" if rules.bias is None else "qk_bias", query, key, rules)
    blocks = triton.cdiv(min(rules.max_seqlen, q_len), given["BLOCK_Q"])
    with on_device(query):
        qk_kernel[(blocks * num_heads * sequences,)](
            **given, **own_keys(rules), sinks=rules.sinks, diagonal=out, blocks=blocks, total_rows=q_len, plane=out.stride(0),
            SUMMARY=summary,
        )  # fmt: skip
    return out
