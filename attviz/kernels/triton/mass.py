"""``mass_from_logsumexp`` on the GPU: a block of queries walks over the keys it can see, and adds up weights times features."""

from typing import Any

import torch
import triton
import triton.language as tl

from attviz.kernels.qk import QkRules
from attviz.kernels.triton.device_functions import INFINITY, weigh_tile
from attviz.kernels.triton.launch import architecture, on_device
from attviz.kernels.triton.pairs import own_keys, precision, set_up, strides
from attviz.kernels.triton.qk import key_range, shape_logits

WIDEST = 64  # features of one launch; more are taken in turns


@triton.jit
def add_keys(
    sums, mass, spread, q, keys, values, lse, alive, low, high, rows, own, reach, dim_ok, slope, bias, key_mask, q_len, kv_len, alignment,
    left, right, scale, softcap, width, stride_kt, stride_ft, stride_ff, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP: tl.constexpr,
    BOUNDED: tl.constexpr, PRECISION: tl.constexpr, VALUES: tl.constexpr, UPCAST: tl.constexpr, BLOCK_K: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
):  # fmt: skip
    """Add the keys ``low`` to ``high``: times their features, or as mass and distance within ``reach`` of the own key."""
    for start in range(low, high, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        at = columns.to(tl.int64)
        k = tl.load(keys + at[:, None] * stride_kt, mask=(columns < kv_len)[:, None] & dim_ok[None, :], other=0.0)
        if UPCAST:  # the interpreter's bfloat16 product is wrong
            k = k.to(tl.float32)
        logits = shape_logits(
            tl.dot(q, tl.trans(k), input_precision=PRECISION), rows[:, None], columns[None, :], slope, bias, key_mask, q_len, kv_len,
            alignment, left, right, scale, softcap, stride_bq, stride_bk, stride_mk, HAS_SOFTCAP, BOUNDED,
        )  # fmt: skip
        weights = weigh_tile(logits, lse[:, None], alive[:, None], kv_len)
        if values is not None:
            features = tl.arange(0, WIDTH_PAD)
            some = values + at[:, None] * stride_ft + features[None, :] * stride_ff
            v = tl.load(some, mask=(columns < kv_len)[:, None] & (features < width)[None, :], other=0.0)
            sums += tl.dot(weights, v, input_precision=VALUES)
        else:
            distance = tl.abs(columns[None, :] - own[:, None])
            if reach is not None:
                weights = tl.where(distance <= reach, weights, 0.0)
            mass += tl.sum(weights, axis=1)
            spread += tl.sum(weights * distance.to(tl.float32), axis=1)
    return sums, mass, spread


@triton.jit(do_not_specialize=["q_len", "kv_len", "kv_offset", "blocks", "total_rows", "width"])
def mass_kernel(
    query, key, logsumexp, features, slopes, bias, key_mask, cu_q, cu_k, out, scale, softcap, q_len, kv_len, kv_offset, left, right,
    reach, blocks, num_heads, total_rows, width, stride_qb, stride_qh, stride_qt, stride_qd, stride_kb, stride_kh, stride_kt, stride_kd,
    stride_lb, stride_lh, stride_lt, stride_fb, stride_ft, stride_ff, stride_ob, stride_oh, stride_ot, stride_sb, stride_sh,
    stride_bb, stride_bh, stride_bq, stride_bk, stride_mb, stride_mk, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr, HAS_SOFTCAP: tl.constexpr, OWN_LAST: tl.constexpr, BOTTOM_RIGHT: tl.constexpr, PRECISION: tl.constexpr,
    VALUES: tl.constexpr, UPCAST: tl.constexpr, FAR: tl.constexpr, WIDTH_PAD: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program per (block of queries, sequence and head); the last blocks go first, because they are the longest under a causal mask."""
    block = blocks - 1 - tl.program_id(0) % blocks
    outer = (tl.program_id(0) // blocks).to(tl.int64)  # int64: batch * heads * length * head_dim passes 2**31 at long context
    sequence, head = outer // num_heads, outer % num_heads
    query, key, logsumexp, out = (
        query + head * stride_qh,
        key + head // GROUP * stride_kh,
        logsumexp + head * stride_lh,
        out + head * stride_oh,
    )
    if cu_q is not None:
        first_q, first_k = tl.load(cu_q + sequence).to(tl.int64), tl.load(cu_k + sequence).to(tl.int64)
        q_len = (tl.load(cu_q + sequence + 1) - first_q).to(tl.int32)
        kv_len = (tl.load(cu_k + sequence + 1) - first_k).to(tl.int32)
        query, key, logsumexp = query + first_q * stride_qt, key + first_k * stride_kt, logsumexp + first_q * stride_lt
        out += first_q * stride_ot
        if features is not None:
            features += first_k * stride_ft
    else:
        query, key, logsumexp = query + sequence * stride_qb, key + sequence * stride_kb, logsumexp + sequence * stride_lb
        out += sequence * stride_ob
        if features is not None:
            features += sequence * stride_fb
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
    rows, dims = block * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, HEAD_PAD)
    if FAR:
        dims = dims.to(tl.int64)
    row_ok, dim_ok, at = rows < q_len, dims < HEAD_DIM, rows.to(tl.int64)
    q = tl.load(query + at[:, None] * stride_qt + dims[None, :] * stride_qd, mask=row_ok[:, None] & dim_ok[None, :], other=0.0)
    if UPCAST:
        q = q.to(tl.float32)
    lse = tl.load(logsumexp + at * stride_lt, mask=row_ok, other=float("inf")).to(tl.float32)
    alive, own, keys = tl.abs(lse) != INFINITY, rows + kv_offset, key + dims[None, :] * stride_kd
    low, full_low, full_high, high = key_range(block, q_len, kv_len, alignment, left, right, BLOCK_Q, BLOCK_K)
    mass, spread = tl.zeros([BLOCK_Q], tl.float32), tl.zeros([BLOCK_Q], tl.float32)
    sums = tl.zeros([BLOCK_Q, WIDTH_PAD], tl.float32)
    if left is not None:
        sums, mass, spread = add_keys(
            sums, mass, spread, q, keys, features, lse, alive, low, full_low, rows, own, reach, dim_ok, slopes, bias, key_mask, q_len,
            kv_len, alignment, left, right, scale, softcap, width, stride_kt, stride_ft, stride_ff, stride_bq, stride_bk, stride_mk,
            HAS_SOFTCAP, True, PRECISION, VALUES, UPCAST, BLOCK_K, WIDTH_PAD,
        )  # fmt: skip
    sums, mass, spread = add_keys(
        sums, mass, spread, q, keys, features, lse, alive, full_low, full_high, rows, own, reach, dim_ok, slopes, bias, key_mask, q_len,
        kv_len, alignment, left, right, scale, softcap, width, stride_kt, stride_ft, stride_ff, stride_bq, stride_bk, stride_mk,
        HAS_SOFTCAP, False, PRECISION, VALUES, UPCAST, BLOCK_K, WIDTH_PAD,
    )  # fmt: skip
    sums, mass, spread = add_keys(
        sums, mass, spread, q, keys, features, lse, alive, full_high, high, rows, own, reach, dim_ok, slopes, bias, key_mask, q_len,
        kv_len, alignment, left, right, scale, softcap, width, stride_kt, stride_ft, stride_ff, stride_bq, stride_bk, stride_mk,
        HAS_SOFTCAP, True, PRECISION, VALUES, UPCAST, BLOCK_K, WIDTH_PAD,
    )  # fmt: skip
    if features is not None:
        columns = tl.arange(0, WIDTH_PAD)
        tl.store(out + at[:, None] * stride_ot + columns[None, :], sums, mask=row_ok[:, None] & (columns < width)[None, :])
    else:
        tl.store(out + at * stride_ot, mass, mask=row_ok)
        tl.store(out + at * stride_ot + 1, spread, mask=row_ok)


def launch(
    query: torch.Tensor, key: torch.Tensor, logsumexp: torch.Tensor, features: torch.Tensor | None, reach: int, *options: Any
) -> torch.Tensor:
    """Arguments and result of the operator ``attviz::mass_from_logsumexp``; features beyond :data:`WIDEST` take a launch each."""
    rules = QkRules.without_sinks(options)
    (batch, num_heads, q_len, _), kv_len = query.shape, key.shape[2]
    total = 2 if features is None else features.shape[2]
    out = torch.empty(batch, num_heads, q_len, total, dtype=torch.float32, device=query.device)
    if rules.cu_seqlens_q is not None:
        out.fill_(torch.nan)  # behind the texts no program writes
    if out.numel() == 0 or kv_len == 0:
        return out.nan_to_num_(0.0)
    sequences, given = set_up("mass", query, key, rules, logsumexp)
    given |= {"VALUES": precision(architecture(query.device.index), True), **own_keys(rules), **strides("lb lh lt", logsumexp.stride())}
    blocks = triton.cdiv(min(rules.max_seqlen, q_len), given["BLOCK_Q"])
    for first in range(0, total, WIDEST):
        some = None if features is None else features[..., first : first + WIDEST]
        part = out[..., first : first + WIDEST]
        columns = part.shape[3]
        with on_device(query):
            mass_kernel[(blocks * num_heads * sequences,)](
                **given, logsumexp=logsumexp, features=some, out=part, reach=reach if reach >= 0 else None, blocks=blocks,
                total_rows=q_len, width=columns, WIDTH_PAD=max(16, triton.next_power_of_2(columns)) if some is not None else 16,
                **strides("fb ft ff", (0, 0, 0) if some is None else some.expand(batch, kv_len, columns).stride()),
                **strides("ob oh ot", part.stride()[:3]),
            )  # fmt: skip
    return out
