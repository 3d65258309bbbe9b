"""Functions that several kernels share: soft cap, weight from score, aggregates over heads."""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.4028234663852886e38)  # finfo(float32).min
NEVER = tl.constexpr(-1.7014117331926443e38)  # half of it: a logsumexp below says that every key carries a finfo.min mask
INFINITY = tl.constexpr(float("inf"))
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def soft_cap(scores, softcap):
    """``softcap * tanh(scores / softcap)`` by exp: the interpreter has no tanh. Saturates to +-softcap without overflow."""
    damped = tl.exp(-2.0 * tl.abs(scores) / softcap)
    size = softcap * (1.0 - damped) / (1.0 + damped)
    return tl.where(scores < 0, -size, size)


@triton.jit
def log_add_exp(a, b):
    """``log(exp(a) + exp(b))``; a may be -inf or +inf."""
    top = tl.maximum(a, b)
    total = top + tl.log(tl.exp(a - top) + tl.exp(b - top))
    return tl.where(tl.abs(a) == INFINITY, tl.where(a > 0, a, b), total)


@triton.jit
def weigh(exponent, seen, logsumexp, sink, kv_len, HAS_SINK: tl.constexpr):
    """``exp(exponent - logsumexp)`` within [0, 1]; 0 for hidden keys; uniform for a row hidden by ``finfo.min``. NaN stays NaN."""
    if HAS_SINK:
        weights = tl.exp(exponent - log_add_exp(logsumexp, sink))
    else:
        weights = tl.exp(exponent - logsumexp)
    weights = tl.where(weights > 1.0, 1.0, weights)
    if not HAS_SINK:
        weights = tl.where(logsumexp <= NEVER, 1.0 / kv_len, weights)
    return tl.where(seen & (tl.abs(logsumexp) != INFINITY), weights, 0.0)


@triton.jit
def weigh_tile(logits, lse, alive, kv_len):
    """Weights of a tile from base-2 logits and the natural log-sum-exp of its rows; 0 where a row is dead or a key hidden."""
    weights = tl.exp2(logits - tl.where(alive, lse, 0.0) * LOG2E)
    weights = tl.where(weights > 1.0, 1.0, weights)
    weights = tl.where(lse <= NEVER, 1.0 / kv_len, weights)
    return tl.where(alive & (logits != -INFINITY), weights, 0.0)


@triton.jit
def store_aggregates(aggregates, values, heads, row_offsets, row_ok, plane, NUM_HEADS: tl.constexpr):
    """Mean, std, max, min and Table 2 entropy over the heads of a ``[rows, heads]`` tile; five planes of the output."""
    real = heads[None, :] < NUM_HEADS
    mean = tl.sum(tl.where(real, values, 0.0), axis=1) / NUM_HEADS
    deviation = tl.where(real, values - mean[:, None], 0.0)
    if NUM_HEADS > 1:
        std = tl.sqrt(tl.sum(deviation * deviation, axis=1) / (NUM_HEADS - 1))
    else:
        std = mean + float("nan")
    logs = tl.log(tl.where(real & (values > 0), values, 1.0))  # 0 log 0 = 0
    entropy = -tl.sum(tl.where(real, values * logs, 0.0), axis=1)
    distinct = tl.zeros_like(mean)
    for head in range(NUM_HEADS):  # a value counts once: where no earlier head has the same
        value = tl.sum(tl.where(heads[None, :] == head, values, 0.0), axis=1)
        earlier = (heads[None, :] < head) & (values == value[:, None])
        distinct += 1.0 - tl.max(earlier.to(tl.float32), axis=1)
    tl.store(aggregates + row_offsets, mean, mask=row_ok)
    tl.store(aggregates + plane + row_offsets, std, mask=row_ok)
    tl.store(aggregates + 2 * plane + row_offsets, tl.max(tl.where(real, values, -1.0), axis=1), mask=row_ok)
    tl.store(aggregates + 3 * plane + row_offsets, tl.min(tl.where(real, values, 2.0), axis=1), mask=row_ok)
    tl.store(aggregates + 4 * plane + row_offsets, entropy / distinct, mask=row_ok)
