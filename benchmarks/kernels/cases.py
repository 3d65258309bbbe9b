"""Every kernel with every specialisation worth compiling: what the ahead-of-time report and its test go through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attviz.kernels.tokens import SEGMENT_CHUNK
from attviz.kernels.triton import logsumexp, qk, tokens, weights
from benchmarks.kernels.compile import Report

BATCH, Q_LEN, NUM_HEADS = 2, 4096, 32
SHARED_LIMIT = {  # bytes a program may ask for
    **{"sm_75": 65536, "sm_80": 166912, "sm_86": 101376, "sm_89": 101376, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376},
    **{"gfx90a": 65536, "gfx942": 65536, "gfx950": 163840, "gfx1100": 65536},
}


@dataclass(frozen=True)
class Case:
    """A launch to compile, with what its code must contain."""

    name: str
    launch: Callable[[], object]
    matrix: bool = False  # a matrix instruction is expected
    vector: bool = False  # vector loads are promised

    def faults(self, kernel: str, report: Report, arch: str) -> list[str]:
        """What a compiled kernel breaks of its promises: no spills, room in shared memory, matrix and vector instructions."""
        found = []
        if report.spilled_bytes:
            found.append(f"{report.spilled_bytes} bytes spilled")
        if report.shared_bytes > SHARED_LIMIT[arch]:
            found.append(f"{report.shared_bytes} bytes of shared memory, {SHARED_LIMIT[arch]} are there")
        if self.matrix and not report.matrix:
            found.append("no matrix instruction")
        if self.vector and not report.vector_loads:
            found.append("no vector load")
        return [f"{arch} {self.name} {kernel}: {fault}" for fault in found]


def tensors(dtype: torch.dtype, head_dim: int, num_kv_heads: int, transposed: bool = True) -> tuple[Tensor, Tensor]:
    """Query and key of a Llama-like layer on ``meta``; transposed as a projection leaves them."""
    shapes = ((BATCH, Q_LEN, NUM_HEADS, head_dim), (BATCH, Q_LEN, num_kv_heads, head_dim))
    query, key = (torch.empty(shape, dtype=dtype, device="meta").transpose(1, 2) for shape in shapes)
    return (query, key) if transposed else (query.contiguous(), key.contiguous())


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def logsumexp_case(label: str, dtype: torch.dtype, head_dim: int, *, extras: bool = False, options: bool = False) -> Case:
    query, key = tensors(dtype, head_dim, 8)
    bias = meta(BATCH, 1, Q_LEN, Q_LEN, dtype=dtype) if options else None
    row_mask = meta(BATCH, 1, Q_LEN, dtype=torch.bool) if options else None
    sinks = meta(NUM_HEADS, dtype=dtype) if options else None
    lse = meta(BATCH, NUM_HEADS, Q_LEN)
    cap = 30.0 if options else 0.0
    vector = head_dim % 8 == 0
    no_index = (None, None, None, 0, -1, -1)
    return Case(f"logsumexp {label}", lambda: logsumexp.launch(query, key, lse, 0.1, bias, row_mask, 0, cap, sinks, *no_index, extras), vector=vector)


def qk_case(label: str, dtype: torch.dtype, head_dim: int, *, causal: bool = True, summary: bool = False, options: str = "") -> Case:
    query, key = tensors(dtype, head_dim, 8)
    bias = meta(BATCH, 1, Q_LEN, Q_LEN, dtype=dtype) if "bias" in options else None
    mask = meta(BATCH, Q_LEN, dtype=torch.bool) if "padding" in options else None
    sinks = meta(NUM_HEADS, dtype=dtype) if "sinks" in options else None
    slopes = meta(NUM_HEADS) if "alibi" in options else None
    edges = meta(5, dtype=torch.int32) if "packed" in options else None
    if edges is not None:
        query, key = query[:1], key[:1]
    window = 1024 if "window" in options else -1
    rules = (0.1, None, True, window, 0 if causal else -1, 30.0 if "softcap" in options else 0.0, sinks, slopes, bias, mask, edges, edges)
    return Case(f"qk {label}", lambda: qk.launch(query, key, *rules, Q_LEN, summary), matrix=True, vector=head_dim % 8 == 0)


def cases() -> Iterator[Case]:
    """All of them; the order is that of ``docs/kernels.md``."""
    half, bf16, single = torch.float16, torch.bfloat16, torch.float32
    for head_dim in (16, 32, 64, 80, 128, 256):
        yield logsumexp_case(f"bf16 d{head_dim}", bf16, head_dim)
    for dtype, name in ((half, "fp16"), (single, "fp32")):
        yield logsumexp_case(f"{name} d64", dtype, 64)
        yield logsumexp_case(f"{name} d128", dtype, 128)
    yield logsumexp_case("bf16 d128, bias, mask, sinks, softcap", bf16, 128, options=True)
    yield logsumexp_case("bf16 d128, aggregates", bf16, 128, extras=True)
    yield logsumexp_case("fp32 d64, aggregates, bias, mask, sinks, softcap", single, 64, extras=True, options=True)
    for head_dim in (16, 32, 64, 80, 128, 256):
        yield qk_case(f"bf16 d{head_dim} causal", bf16, head_dim)
    yield qk_case("fp16 d64 full", half, 64, causal=False)
    for head_dim in (64, 128):
        yield qk_case(f"fp32 d{head_dim} causal", single, head_dim)
    yield qk_case("bf16 d128 causal, summary", bf16, 128, summary=True)
    for head_dim in (64, 128):
        yield qk_case(f"fp32 d{head_dim} causal, summary", single, head_dim, summary=True)
    for options in ("window", "softcap", "sinks", "alibi", "bias", "padding", "packed", "window softcap sinks bias padding"):
        yield qk_case(f"bf16 d128 causal, {options.replace(' ', ', ')}", bf16, 128, options=options)
    matrix = meta(BATCH, NUM_HEADS, Q_LEN, Q_LEN, dtype=half)
    yield Case("weights fp16", lambda: weights.launch(matrix, 0, False))
    yield Case("weights fp16, aggregates", lambda: weights.launch(matrix, 0, True))
    state = [meta(50257, dtype=torch.float64), *(meta(50257, NUM_HEADS, dtype=torch.float64) for _ in range(2))]
    state += [meta(50257, NUM_HEADS), meta(50257, NUM_HEADS)]
    plan = meta(5, BATCH * Q_LEN, dtype=torch.int64)
    assert plan.shape[1] > SEGMENT_CHUNK  # both kernels are launched
    yield Case("tokens fp32", lambda: tokens.launch(*state, meta(BATCH, NUM_HEADS, Q_LEN), plan))
