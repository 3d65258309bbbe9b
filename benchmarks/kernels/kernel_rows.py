"""Each kernel at each shape: first right, then timed, against its floor and against the flash forward of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attviz import kernels
from attviz.kernels.references import summary_from_qk_reference, weights_reference
from benchmarks.kernels.timing import copies_needed, default_device, time_calls

Row = dict[str, object]
FEATURES = torch.eye(16)  # sixteen segments, in turn


@dataclass(frozen=True)
class Shape:
    """One attention."""

    name: str
    batch: int
    num_heads: int
    num_kv_heads: int
    q_len: int
    head_dim: int
    dtype: torch.dtype
    is_causal: bool

    def make(self) -> tuple[Tensor, Tensor]:
        """Random query and key, laid out as a projection leaves them."""
        made = (
            torch.randn(self.batch, self.q_len, heads, self.head_dim, device=default_device()).to(self.dtype).transpose(1, 2)
            for heads in (self.num_heads, self.num_kv_heads)
        )
        return tuple(made)  # type: ignore[return-value]

    @property
    def bytes(self) -> int:
        """Query and key once, log-sum-exp read, diagonal written."""
        rows = self.batch * self.q_len
        return rows * self.head_dim * (self.num_heads + self.num_kv_heads) * self.dtype.itemsize + 8 * rows * self.num_heads

    @property
    def operations(self) -> int:
        """Of the product of query and key."""
        full = 2 * self.batch * self.num_heads * self.q_len**2 * self.head_dim
        return full // 2 if self.is_causal else full


GPU_SHAPES = (
    Shape("bert-base 32x512 fp16", 32, 12, 12, 512, 64, torch.float16, False),
    Shape("llama-3-8b 1x4096 bf16", 1, 32, 8, 4096, 128, torch.bfloat16, True),
    Shape("llama-3-8b 1x32768 bf16", 1, 32, 8, 32768, 128, torch.bfloat16, True),
    Shape("llama-3-8b 1x131072 bf16", 1, 32, 8, 131072, 128, torch.bfloat16, True),
)
CPU_SHAPES = (
    Shape("minilm 8x128 fp32", 8, 12, 12, 128, 32, torch.float32, False),
    Shape("bert-base 1x512 fp32", 1, 12, 12, 512, 64, torch.float32, False),
    Shape("llama-like 1x1024 fp32", 1, 8, 2, 1024, 64, torch.float32, True),
)


def check(shape: Shape, query: Tensor, key: Tensor, logsumexp: Tensor) -> dict[str, str]:
    """What is wrong with which kernel at this shape, on its last 64 queries, against dense float64; empty if all are right."""
    last = slice(shape.q_len - 64, shape.q_len)
    expected = summary_from_qk_reference(query[:1, :, last], key[:1], is_causal=shape.is_causal)
    rows = kernels.summary_from_qk(query[:1], key[:1], is_causal=shape.is_causal)
    fused = kernels.summary_from_logsumexp(query[:1], key[:1], logsumexp[:1])
    pairs = {
        "diagonal_from_qk": (kernels.diagonal_from_qk(query[:1], key[:1], is_causal=shape.is_causal), expected.diagonal, 2e-3, 1e-5),
        "summary_from_qk": (rows.diagonal, expected.diagonal, 2e-3, 1e-5),
        "summary_from_qk ": (rows.row_entropy, expected.row_entropy, 1e-3, 1e-3),
        "diagonal_from_logsumexp": (
            kernels.diagonal_from_logsumexp(query[:1], key[:1], logsumexp[:1]), expected.diagonal, 2e-3, 1e-5,
        ),
        "summary_from_logsumexp": (fused.diagonal, expected.diagonal, 2e-3, 1e-5),
        "summary_from_logsumexp ": (fused.first_token, expected.first_token, 2e-3, 1e-5),
    }  # fmt: skip
    pairs |= _passes(shape, query[:1, :4], key[:1], logsumexp[:1, :4], last)
    wrong = {}
    for name, (found, right, rtol, atol) in pairs.items():
        assert found is not None
        try:
            torch.testing.assert_close(found[:, :, last].double(), right, rtol=rtol, atol=atol)
        except AssertionError as error:
            wrong[name.strip()] = "wrong, so not timed: " + " ".join(str(error).split())[:150]
    return wrong


def _passes(shape: Shape, query: Tensor, key: Tensor, logsumexp: Tensor, last: slice) -> dict[str, tuple[Tensor, Tensor, float, float]]:
    """Found and right of the passes, for a few heads; what the last keys of a causal text receive, its last queries give."""
    key, causal = key[:, :1], shape.is_causal
    givers = last if causal else slice(0, shape.q_len)
    received = weights_reference(query[:, :, givers], key[:, :, givers], logsumexp[:, :, givers], is_causal=causal).sum(-2)
    rows = weights_reference(query[:, :, last], key, logsumexp[:, :, last], is_causal=causal)
    features = FEATURES.to(query.device)[torch.arange(shape.q_len, device=query.device) % len(FEATURES)]
    distance = (torch.arange(shape.q_len, device=query.device) - torch.arange(shape.q_len, device=query.device)[last, None]).abs()
    reach = torch.stack(((rows * (distance <= 128)).sum(-1), (rows * distance * (distance <= 128)).sum(-1)), -1)
    return {
        "received_from_logsumexp": (
            kernels.received_from_logsumexp(query, key, logsumexp, is_causal=causal)[0], received[..., -64:], 2e-3, 1e-4,
        ),
        "mass_from_logsumexp": (
            kernels.mass_from_logsumexp(query, key, logsumexp, features, is_causal=causal), rows @ features.double(), 2e-3, 1e-4,
        ),
        "reach_from_logsumexp": (kernels.reach_from_logsumexp(query, key, logsumexp, reach=128, is_causal=causal), reach, 2e-3, 1e-3),
    }  # fmt: skip


def providers(shape: Shape, query: Tensor, key: Tensor, logsumexp: Tensor) -> dict[str, tuple[Callable[[], object], int, int]]:
    """What is timed: name -> (call, bytes it must move, operations it must do)."""
    causal, gqa = shape.is_causal, shape.num_heads != shape.num_kv_heads
    state = kernels.TokenState.empty(32000, shape.num_heads, query.device)
    ids = torch.randint(0, 32000, (shape.batch, shape.q_len), device=query.device)
    order = kernels.TokenOrder.of(ids)
    diagonal = kernels.diagonal_from_logsumexp(query, key, logsumexp)
    rows, ops = 4 * diagonal.numel(), shape.operations
    features = FEATURES.to(query.device)[torch.arange(shape.q_len, device=query.device) % len(FEATURES)]
    given = (query, key, logsumexp)
    return {
        "diagonal_from_logsumexp": (lambda: kernels.diagonal_from_logsumexp(query, key, logsumexp), shape.bytes, 0),
        "summary_from_logsumexp": (lambda: kernels.summary_from_logsumexp(query, key, logsumexp), shape.bytes + rows, 0),
        "diagonal_from_qk": (lambda: kernels.diagonal_from_qk(query, key, is_causal=causal), shape.bytes, ops),
        "summary_from_qk": (lambda: kernels.summary_from_qk(query, key, is_causal=causal), shape.bytes + 4 * rows, ops),
        "received_from_logsumexp": (lambda: kernels.received_from_logsumexp(*given, is_causal=causal), shape.bytes + 2 * rows, ops),
        "mass_from_logsumexp": (
            lambda: kernels.mass_from_logsumexp(*given, features, is_causal=causal), shape.bytes + 16 * rows,
            ops + 16 * ops // shape.head_dim,
        ),
        "reach_from_logsumexp": (lambda: kernels.reach_from_logsumexp(*given, reach=128, is_causal=causal), shape.bytes + 2 * rows, ops),
        "merge_by_token": (lambda: kernels.merge_by_token(state, order, diagonal), rows, 0),
        "token_order": (lambda: kernels.TokenOrder.of(ids), 40 * ids.numel(), 0),
        "flash_forward": (lambda: flash_forward(query, key, causal, gqa), shape.bytes, 2 * ops),
    }  # fmt: skip


def flash_forward(query: Tensor, key: Tensor, is_causal: bool, gqa: bool) -> Tensor:
    """What the model pays for the same attention: FlashAttention on the GPU, the keys standing in for the values."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(query, key, key, is_causal=is_causal, enable_gqa=gqa)


def logsumexp_of(shape: Shape, query: Tensor, key: Tensor) -> Tensor:
    """Log-sum-exp of every row; from our own kernel, which ``check`` holds against float64."""
    rows = kernels.summary_from_qk(query, key, is_causal=shape.is_causal)
    assert rows.logsumexp is not None
    return rows.logsumexp


def measure(shape: Shape, bandwidth: float, rate: float) -> Iterator[Row]:
    """Rows of one shape, slowest provider last; the floor is the larger of bytes over bandwidth and operations over rate."""
    torch.manual_seed(0)
    sets = []
    for _ in range(copies_needed(shape.bytes)):
        query, key = shape.make()
        sets.append((query, key, logsumexp_of(shape, query, key)))
    wrong = check(shape, *sets[0])
    calls = [providers(shape, *one) for one in sets]
    flash = time_calls([call["flash_forward"][0] for call in calls]).p50_ms
    for name, (_, size, operations) in calls[0].items():
        row: Row = {"kernel": name, "shape": shape.name, "note": wrong.get(name, "")}
        if name not in wrong:
            floor = max(size / bandwidth, operations / rate) * 1e3
            row |= timed([call[name][0] for call in calls], floor)
            row["over_flash"] = float(str(row["p50_ms"])) / flash
        yield row
    yield from measure_weights(shape, bandwidth)


def timed(runs: list[Callable[[], object]], floor_ms: float) -> Row:
    """Timing beside its floor."""
    timing = time_calls(runs)
    return {
        "p50_ms": timing.p50_ms,
        "p20_ms": timing.p20_ms,
        "p80_ms": timing.p80_ms,
        "floor_ms": floor_ms,
        "of_floor": floor_ms / timing.p50_ms,
    }


def measure_weights(shape: Shape, bandwidth: float) -> Iterator[Row]:
    """diagonal_from_weights where the matrix fits; the floor counts the 32-byte sectors that a strided read touches."""
    if shape.batch * shape.num_heads * shape.q_len**2 > 1 << 31:
        return
    matrix = torch.rand(shape.batch, shape.num_heads, shape.q_len, shape.q_len, device=default_device()).to(shape.dtype)
    rows = shape.batch * shape.num_heads * shape.q_len
    expected = matrix.diagonal(dim1=-2, dim2=-1).float()
    torch.testing.assert_close(kernels.diagonal_from_weights(matrix), expected, rtol=0, atol=0)
    floor = rows * (32 + 4) / bandwidth * 1e3
    for name, run in (
        ("diagonal_from_weights", lambda: kernels.diagonal_from_weights(matrix)),
        ("summary_from_weights", lambda: kernels.summary_from_weights(matrix)),
    ):
        yield {"kernel": name, "shape": shape.name} | timed([run], floor)
