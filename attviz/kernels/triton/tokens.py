"""``merge_by_token`` on the GPU: each segment of equal ids is reduced in a fixed order, hence deterministic and without atomics."""

import torch
import triton
import triton.language as tl

from attviz.errors import ShapeError
from attviz.kernels.tokens import SEGMENT_CHUNK
from attviz.kernels.triton.launch import on_device

BLOCK_N = 8


@triton.jit
def chan(count_a, mean_a, m2_a, count_b, mean_b, m2_b):
    """Pool two samples (Chan et al. 1979); returns the pooled mean and sum of squared deviations."""
    share = count_b / (count_a + count_b)
    delta = mean_b - mean_a
    return mean_a + delta * share, m2_a + m2_b + delta * delta * count_a * share


@triton.jit
def merge_into_state(count, mean, m2, max, min, token, heads, head_ok, num_heads, here, here_mean, here_m2, top, low):
    """Read one row of the state, pool it with a sample, write it back. The count is written by the caller, after all heads."""
    at = token * num_heads + heads
    before = tl.load(count + token)
    mean_a, m2_a = tl.load(mean + at, mask=head_ok, other=0.0), tl.load(m2 + at, mask=head_ok, other=0.0)
    pooled_mean, pooled_m2 = chan(before, mean_a, m2_a, here, here_mean, here_m2)
    tl.store(mean + at, pooled_mean, mask=head_ok)
    tl.store(m2 + at, pooled_m2, mask=head_ok)
    tl.store(max + at, tl.maximum(tl.load(max + at, mask=head_ok, other=0.0), top), mask=head_ok)
    tl.store(min + at, tl.minimum(tl.load(min + at, mask=head_ok, other=0.0), low), mask=head_ok)


@triton.jit
def gather(diagonal, plan, at, stop, n, q_len, heads, head_ok, stride_b, stride_h, stride_t, BLOCK: tl.constexpr):
    """Tile ``[BLOCK, heads]`` of the values at sorted positions ``at`` to ``stop``, and a mask of real entries."""
    positions = at + tl.arange(0, BLOCK)
    ok = positions < stop
    places = tl.load(plan + n + positions, mask=ok, other=0)
    offsets = places // q_len * stride_b + places % q_len * stride_t
    real = ok[:, None] & head_ok[None, :]
    return tl.load(diagonal + offsets[:, None] + heads.to(tl.int64)[None, :] * stride_h, mask=real, other=0.0), real


@triton.jit(do_not_specialize=["slots", "n", "q_len", "vocab"])
def segment_kernel(
    count, mean, m2, max, min, diagonal, plan, partial, pieces, slots, n, q_len, vocab, num_heads, stride_b, stride_h, stride_t,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """One program per sorted position; it works where a segment, or a further chunk of a long segment, begins."""
    position = tl.program_id(0).to(tl.int64)
    token, start, end = tl.load(plan + position), tl.load(plan + 2 * n + position), tl.load(plan + 3 * n + position)
    if (token < 0) | (token >= vocab) | ((position - start) % CHUNK != 0):
        return
    stop = tl.minimum(position + CHUNK, end)
    here = (stop - position).to(tl.float64)
    is_long = end - start > CHUNK
    slot = tl.load(plan + 4 * n + position)
    for first_head in range(0, num_heads, BLOCK_H):
        heads = first_head + tl.arange(0, BLOCK_H)
        head_ok = heads < num_heads
        total = tl.zeros([BLOCK_H], tl.float64)
        top, low = tl.full([BLOCK_H], float("-inf"), tl.float32), tl.full([BLOCK_H], float("inf"), tl.float32)
        for at in range(position, stop, BLOCK):
            tile, real = gather(diagonal, plan, at, stop, n, q_len, heads, head_ok, stride_b, stride_h, stride_t, BLOCK)
            total += tl.sum(tl.where(real, tile.to(tl.float64), 0.0), axis=0)
            top = tl.maximum(top, tl.max(tl.where(real, tile.to(tl.float32), float("-inf")), axis=0))
            low = tl.minimum(low, tl.min(tl.where(real, tile.to(tl.float32), float("inf")), axis=0))
        here_mean = total / here
        here_m2 = tl.zeros([BLOCK_H], tl.float64)
        for at in range(position, stop, BLOCK):  # a second pass: sums of squares would lose the deviation
            tile, real = gather(diagonal, plan, at, stop, n, q_len, heads, head_ok, stride_b, stride_h, stride_t, BLOCK)
            deviation = tl.where(real, tile.to(tl.float64) - here_mean[None, :], 0.0)
            here_m2 += tl.sum(deviation * deviation, axis=0)
        if is_long:
            out = partial + slot * 4 * num_heads + heads
            tl.store(out, here_mean, mask=head_ok)
            tl.store(out + num_heads, here_m2, mask=head_ok)
            tl.store(out + 2 * num_heads, top.to(tl.float64), mask=head_ok)
            tl.store(out + 3 * num_heads, low.to(tl.float64), mask=head_ok)
        else:
            merge_into_state(count, mean, m2, max, min, token, heads, head_ok, num_heads, here, here_mean, here_m2, top, low)
    if is_long:
        tl.store(pieces + slot, tl.where(position == start, end - start, 0))
        tl.store(pieces + slots + slot, token)
    else:
        tl.store(count + token, tl.load(count + token) + here)


@triton.jit
def long_kernel(
    count, mean, m2, max, min, partial, pieces, slots, num_heads, CHUNK: tl.constexpr, BLOCK_H: tl.constexpr
):  # fmt: skip
    """One program per slot; it works where a long segment begins and pools its pieces in order."""
    slot = tl.program_id(0).to(tl.int64)
    length = tl.load(pieces + slot)
    if length == 0:
        return
    token = tl.load(pieces + slots + slot)
    for first_head in range(0, num_heads, BLOCK_H):
        heads = first_head + tl.arange(0, BLOCK_H)
        head_ok = heads < num_heads
        pooled = (length * 0).to(tl.float64)
        pooled_mean, pooled_m2 = tl.zeros([BLOCK_H], tl.float64), tl.zeros([BLOCK_H], tl.float64)
        top, low = tl.full([BLOCK_H], float("-inf"), tl.float64), tl.full([BLOCK_H], float("inf"), tl.float64)
        for piece in range(0, tl.cdiv(length, CHUNK)):
            at = partial + (slot + piece) * 4 * num_heads + heads
            here = tl.minimum(length - piece * CHUNK, CHUNK).to(tl.float64)
            here_mean = tl.load(at, mask=head_ok, other=0.0)
            here_m2 = tl.load(at + num_heads, mask=head_ok, other=0.0)
            pooled_mean, pooled_m2 = chan(pooled, pooled_mean, pooled_m2, here, here_mean, here_m2)
            top = tl.maximum(top, tl.load(at + 2 * num_heads, mask=head_ok, other=0.0))
            low = tl.minimum(low, tl.load(at + 3 * num_heads, mask=head_ok, other=0.0))
            pooled += here
        merge_into_state(
            count, mean, m2, max, min, token, heads, head_ok, num_heads,
            length.to(tl.float64), pooled_mean, pooled_m2, top.to(tl.float32), low.to(tl.float32),
        )  # fmt: skip
    tl.store(count + token, tl.load(count + token) + length.to(tl.float64))


def launch(
    count: torch.Tensor,
    mean: torch.Tensor,
    m2: torch.Tensor,
    max: torch.Tensor,
    min: torch.Tensor,
    diagonal: torch.Tensor,
    plan: torch.Tensor,
) -> None:
    """Arguments of the operator ``attviz::merge_by_token``; the state is updated in place."""
    state = (count, mean, m2, max, min)
    if not all(tensor.is_contiguous() for tensor in state) or not plan.is_contiguous():
        raise ShapeError("merge_by_token: the state must be contiguous on the GPU; create it with TokenState.empty.")
    vocab, num_heads = mean.shape
    n, q_len = plan.shape[1], diagonal.shape[2]
    slots = 2 * (n // SEGMENT_CHUNK) + 1  # a segment longer than a chunk has at most twice its share of pieces
    partial = torch.empty(slots, 4, num_heads, dtype=torch.float64, device=mean.device)
    pieces = torch.zeros(2, slots, dtype=torch.int64, device=mean.device)
    block_h = 32 if num_heads > 32 else triton.next_power_of_2(num_heads)
    blocks = {"CHUNK": SEGMENT_CHUNK, "BLOCK_H": block_h, "num_warps": 1, "enable_fp_fusion": True}
    # one warp: no race on the count it reads and writes
    long = (*state, partial, pieces, slots, num_heads)
    with on_device(mean):
        if n > SEGMENT_CHUNK:
            _compile_first(str(mean.device), long, blocks)
        segment_kernel[(n,)](
            *state, diagonal, plan, partial, pieces, slots, n, q_len, vocab, num_heads, *diagonal.stride(), BLOCK=BLOCK_N, **blocks
        )
        if n > SEGMENT_CHUNK:
            long_kernel[(slots,)](*long, **blocks)


_compiled: set[tuple[str, int]] = set()


def _compile_first(device: str, arguments: tuple[object, ...], blocks: dict[str, object]) -> None:
    """Compile the second kernel before the first changes the state, so that a failure leaves the state as it was."""
    kind = (device, int(blocks["BLOCK_H"]))  # type: ignore[call-overload]
    if kind not in _compiled:
        long_kernel.warmup(*arguments, grid=(1,), **blocks)
        _compiled.add(kind)
