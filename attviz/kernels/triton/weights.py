"""``diagonal_from_weights`` on the GPU: a strided read, and in the same launch the aggregates over heads."""

import torch
import triton
import triton.language as tl

from attviz.kernels.summary import empty_outputs
from attviz.kernels.triton.device_functions import store_aggregates
from attviz.kernels.triton.launch import on_device

TILE = 512  # elements of the [rows, heads] tile: few rows where there are many heads


@triton.jit
def within_one(values):
    """Clamp to [0, 1]; a comparison with NaN is false, so NaN stays."""
    values = values.to(tl.float32)
    return tl.where(values > 1.0, 1.0, tl.where(values < 0.0, 0.0, values))


@triton.jit(do_not_specialize=["q_len", "kv_offset", "num_batches"])
def weights_kernel(
    weights, diagonal, first, aggregates, q_len, kv_offset, num_batches, stride_b, stride_h, stride_q, stride_k,
    NUM_HEADS: tl.constexpr, HEADS_PAD: tl.constexpr, EXTRAS: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program per block of queries, all heads side by side."""
    blocks = tl.cdiv(q_len, BLOCK_Q)
    batch = (tl.program_id(0) // blocks).to(tl.int64)  # int64: batch * heads * q_len * kv_len passes 2**31 soon
    rows = (tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
    heads = tl.arange(0, HEADS_PAD)
    row_ok = rows < q_len
    ok = row_ok[:, None] & (heads[None, :] < NUM_HEADS)
    source = weights + batch * stride_b + heads.to(tl.int64)[None, :] * stride_h + rows[:, None] * stride_q
    target = (batch * NUM_HEADS + heads[None, :]) * q_len + rows[:, None]
    values = within_one(tl.load(source + (rows + kv_offset)[:, None] * stride_k, mask=ok, other=0.0))
    tl.store(diagonal + target, values, mask=ok)
    if EXTRAS:
        tl.store(first + target, within_one(tl.load(source, mask=ok, other=0.0)), mask=ok)
        plane = num_batches.to(tl.int64) * q_len
        store_aggregates(aggregates, values, heads, batch * q_len + rows, row_ok, plane, NUM_HEADS)


def launch(weights: torch.Tensor, kv_offset: int, extras: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arguments and results of the operator ``attviz::diagonal_from_weights``."""
    batch, num_heads, q_len, _ = weights.shape
    outputs = empty_outputs(weights, weights.shape[:3], extras)
    if outputs[0].numel() == 0:
        return outputs
    heads_pad = max(2, triton.next_power_of_2(num_heads))
    block_q = max(8, TILE // heads_pad)
    with on_device(weights):
        weights_kernel[(triton.cdiv(q_len, block_q) * batch,)](
            weights, *outputs, q_len, kv_offset, batch, *weights.stride(),
            NUM_HEADS=num_heads, HEADS_PAD=heads_pad, EXTRAS=extras, BLOCK_Q=block_q, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return outputs
