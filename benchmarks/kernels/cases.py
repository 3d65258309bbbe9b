"""Every kernel with every specialisation worth compiling: what the ahead-of-time report and its test go through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attviz.kernels.tokens import SEGMENT_CHUNK
from attviz.kernels.triton import logsumexp, mass, qk, received, small_calls, tokens, weights
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
    shown: bool = False  # has a line in docs/kernels.md
    odd: bool = False  # a size of 1, an odd stride, an offset beyond 32 bits

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


def tensors(dtype: torch.dtype, head_dim: int, num_kv_heads: int = 8) -> tuple[Tensor, Tensor]:
    """Query and key of a Llama-like layer on ``meta``, laid out as a projection leaves them."""
    shapes = ((BATCH, Q_LEN, NUM_HEADS, head_dim), (BATCH, Q_LEN, num_kv_heads, head_dim))
    query, key = (torch.empty(shape, dtype=dtype, device="meta").transpose(1, 2) for shape in shapes)
    return query, key


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def logsumexp_case(label: str, query: Tensor, key: Tensor, options: str = "", *, extras: bool = False, vector: bool = False) -> Case:
    """``options``: some of bias, mask, sinks, softcap, index, each (head has its index), window, packed, texts (a row of each)."""
    batch, heads, q_len, _ = query.shape
    kv_len, dtype, edges = key.shape[2], query.dtype, meta(5, dtype=torch.int32)
    lse = meta(*((4, heads, q_len) if "texts" in options else (batch, heads, q_len)))
    at = meta(batch, heads if "each" in options else 1, q_len, dtype=torch.int64) if "index" in options else None
    packed = (edges, edges) if "packed" in options else (None, None)
    masks = (meta(batch, 1, q_len, kv_len, dtype=dtype) if "bias" in options else None, meta(batch, 1, q_len, dtype=torch.bool))
    rules = (masks[0], masks[1] if "mask" in options else None, 0, 30.0 if "softcap" in options else 0.0)
    sinks = meta(heads, dtype=dtype) if "sinks" in options else None
    window = (1024, 0) if "window" in options else (-1, -1)
    rest = (sinks, at, *packed, 0, *window, extras)
    return Case(f"logsumexp {label}", lambda: logsumexp.launch(query, key, lse, 0.1, *rules, *rest), vector=vector)


def qk_case(label: str, query: Tensor, key: Tensor, options: str = "", *, causal: bool = True, vector: bool = False) -> Case:
    """``options``: some of summary, window, softcap, sinks, alibi, bias, padding, packed."""
    batch, heads, q_len, _ = query.shape
    bias = meta(batch, 1, q_len, key.shape[2], dtype=query.dtype) if "bias" in options else None
    mask = meta(batch, key.shape[2], dtype=torch.bool) if "padding" in options else None
    sinks = meta(heads, dtype=query.dtype) if "sinks" in options else None
    slopes = meta(heads) if "alibi" in options else None
    edges = meta(5, dtype=torch.int32) if "packed" in options else None
    if edges is not None:
        query, key = query[:1], key[:1]
    window = (1024 if "window" in options else -1, 0 if causal else -1)
    rules = (0.1, None, True, *window, 30.0 if "softcap" in options else 0.0, sinks, slopes, bias, mask, edges, edges, q_len)
    return Case(f"qk {label}", lambda: qk.launch(query, key, *rules, "summary" in options), matrix=True, vector=vector)


def pass_case(kernel: str, label: str, query: Tensor, key: Tensor, options: str = "", *, vector: bool = False) -> Case:
    """``options``: some of window, softcap, alibi, bias, padding, packed, queries (a mask of them), reach, features (64 of them)."""
    batch, heads, q_len, _ = query.shape
    kv_len = key.shape[2]
    bias = meta(batch, 1, q_len, kv_len, dtype=query.dtype) if "bias" in options else None
    mask = meta(batch, kv_len, dtype=torch.bool) if "padding" in options else None
    slopes, edges = meta(heads) if "alibi" in options else None, meta(5, dtype=torch.int32) if "packed" in options else None
    if edges is not None:
        query, key, batch = query[:1], key[:1], 1
    lse, window = meta(batch, heads, q_len), (1024 if "window" in options else -1, 0)
    rules = (0.1, None, True, *window, 30.0 if "softcap" in options else 0.0, slopes, bias, mask, edges, edges, q_len)
    if kernel == "received":
        of_queries = meta(batch, q_len, dtype=torch.bool) if "queries" in options else None
        return Case(f"received {label}", lambda: received.launch(query, key, lse, of_queries, *rules), matrix=True, vector=vector)
    features = None if "reach" in options else meta(1, kv_len, 64 if "features" in options else 2)
    reach = 128 if "reach" in options else -1
    return Case(f"mass {label}", lambda: mass.launch(query, key, lse, features, reach, *rules), matrix=True, vector=vector)


def calls_case(label: str, query: Tensor, key: Tensor, options: str = "") -> Case:
    """``options``: some of bias, packed (heads of a group stand where queries should be), past (only the device knows it)."""
    past = meta(dtype=torch.int64) if "past" in options else None
    biases = [meta(1, 1, 1, key.shape[2], dtype=query.dtype)] * 2 if "bias" in options else []
    given = ([query] * 2, [key] * 2, [meta(*query.shape[:3])] * 2, biases, 0.1, [0] * 2, past, "packed" in options)
    return Case(f"calls {label}", lambda: small_calls.launch(*given))


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SIZES = [("bf16", d) for d in (16, 32, 64, 80, 128, 256)] + [("fp16", 64), ("fp32", 16), ("fp32", 32), ("fp32", 64), ("fp32", 128)]
KERNELS = ("logsumexp", "qk", "qk_bias", "received", "mass")  # of the table of tiles
ODD_SIZES = ((1, 1, 1, 1, 16), (1, 8, 1, 33, 64), (3, 1, 1, 7, 40), (1, 4, 4, 1, 128), (2, 6, 2, 1, 1))
ALL = "summary, window, softcap, sinks, alibi, padding"
OF_PASSES = "window, softcap, alibi, bias, padding"


def variants(kernel: str, dtype: torch.dtype, head_dim: int) -> Iterator[Case]:
    """The least and the most that is asked of a kernel at one size of a head: a tile that serves both serves what lies between."""
    query, key = tensors(dtype, head_dim)
    label = f"{next(name for name, known in DTYPES.items() if known is dtype)} d{head_dim}"
    vector = head_dim % 8 == 0
    if kernel == "logsumexp":
        yield logsumexp_case(label, query, key, vector=vector)
        yield logsumexp_case(f"{label}, bias, mask, sinks, softcap", query, key, "bias mask sinks softcap", vector=vector)
        yield logsumexp_case(f"{label}, index of each head, window", query, key, "index each window", vector=vector)
        yield logsumexp_case(f"{label}, packed", query[:1], key[:1], "packed", vector=vector)
        yield logsumexp_case(f"{label}, aggregates, bias, mask, sinks", query, key, "bias mask sinks", extras=True)
    elif kernel == "qk":
        yield qk_case(f"{label} causal", query, key, vector=vector)
        yield qk_case(f"{label} causal, {ALL}", query, key, ALL)
    elif kernel == "received":
        yield pass_case(kernel, label, query, key, vector=vector)
        yield pass_case(kernel, f"{label}, {OF_PASSES}, queries", query, key, f"{OF_PASSES} queries")
    elif kernel == "mass":
        yield pass_case(kernel, label, query, key, vector=vector)
        yield pass_case(kernel, f"{label}, reach, {OF_PASSES}", query, key, f"{OF_PASSES} reach")
        yield pass_case(kernel, f"{label}, 64 features, {OF_PASSES}", query, key, f"{OF_PASSES} features")
    else:
        yield qk_case(f"{label} causal, bias", query, key, "bias")
        yield qk_case(f"{label} causal, bias, {ALL}", query, key, f"bias {ALL}")


def odd_cases() -> Iterator[Case]:
    """Sizes of 1, strides that are odd or 1 where they should not be, and offsets beyond 32 bits: each is another specialisation."""
    for batch, heads, kv_heads, length, head_dim in ODD_SIZES:
        label = f"batch {batch}, heads {heads} of {kv_heads}, length {length}, d{head_dim}"
        query, key = meta(batch, heads, length, head_dim), meta(batch, kv_heads, length, head_dim)
        for options in ("", "bias mask sinks", "index"):
            yield logsumexp_case(f"fp32 {label}{', ' * bool(options)}{options}", query, key, options)
        yield logsumexp_case(f"fp32 {label}, aggregates", query, key, extras=True)
        yield Case(f"weights fp32 {label}", lambda shape=(batch, heads, length, length): weights.launch(meta(*shape), 0, True))
        if head_dim > 1:
            yield qk_case(f"fp32 {label}", query, key, "summary sinks")
            yield pass_case("received", f"fp32 {label}", query, key, "bias")
            yield pass_case("mass", f"fp32 {label}", query, key, "bias")
    last = [meta(head_dim, BATCH, 65, heads, dtype=torch.bfloat16).permute(1, 3, 2, 0) for head_dim, heads in ((64, 6), (64, 3))]
    yield logsumexp_case("bf16 d64, heads last", *last)
    yield qk_case("bf16 d64, heads last", *last)
    far = [torch.empty_strided((1, heads, 9, 64), (0, 1 << 29, 64, 1), dtype=torch.float16, device="meta") for heads in (8, 4)]
    yield logsumexp_case("fp16 d64, heads 2**29 elements apart", *far)
    yield logsumexp_case("fp16 d64, heads 2**29 elements apart, aggregates", *far, extras=True)
    yield qk_case("fp16 d64, heads 2**29 elements apart", *far)
    for kernel in ("received", "mass"):
        yield pass_case(kernel, "fp16 d64, heads 2**29 elements apart", *far)
    query, key = tensors(torch.bfloat16, 128)
    yield logsumexp_case("bf16 d128, packed, a row of each text", query[:1], key[:1], "packed texts")


SHOWN = (
    *("logsumexp bf16 d64", "logsumexp bf16 d128", "logsumexp bf16 d256", "logsumexp fp16 d64", "logsumexp fp32 d64"),
    *("logsumexp bf16 d128, bias, mask, sinks, softcap", "logsumexp bf16 d128, index of each head, window", "logsumexp bf16 d128, packed"),
    *("logsumexp bf16 d128, aggregates, bias, mask, sinks", "qk bf16 d64 causal", "qk bf16 d128 causal", "qk fp32 d64 causal"),
    *(
        "qk bf16 d128 causal, bias",
        "qk bf16 d128 causal, summary",
        "qk bf16 d128 causal, packed",
        "weights fp16",
        "weights fp16, aggregates",
    ),
    *("received bf16 d64", "received bf16 d128", "received fp32 d64", "mass bf16 d64", "mass bf16 d128", "mass fp32 d64"),
    f"mass bf16 d128, reach, {OF_PASSES}",
    "tokens fp32, heads 32",
)


def cases() -> Iterator[Case]:
    """All of them; the order is that of ``docs/kernels.md``."""
    for case in _regular():
        yield replace(case, shown=case.name in SHOWN)
    for case in odd_cases():
        yield replace(case, odd=True)


def _regular() -> Iterator[Case]:
    for kernel in KERNELS:
        for name, head_dim in SIZES:
            yield from variants(kernel, DTYPES[name], head_dim)
    yield from variants("logsumexp", torch.float32, 256)  # no other kernel of the table serves such heads
    query, key = tensors(torch.bfloat16, 128)
    yield qk_case("fp16 d64 full", *tensors(torch.float16, 64), causal=False)
    for options in ("summary", "window", "softcap", "sinks", "alibi", "padding", "packed"):
        yield qk_case(f"bf16 d128 causal, {options}", query, key, options)
    for kernel in ("received", "mass"):
        yield pass_case(kernel, "bf16 d128, packed", query, key, "packed queries")
    for name, head_dim in (("bf16", 128), ("fp16", 64), ("fp32", 256)):
        query, key = (meta(BATCH, heads, length, head_dim, dtype=DTYPES[name]) for heads, length in ((NUM_HEADS, 1), (8, 4096)))
        yield calls_case(f"{name} d{head_dim}, a decode step", query, key)
        packed = meta(BATCH, 8, NUM_HEADS // 8, head_dim, dtype=DTYPES[name])
        yield calls_case(f"{name} d{head_dim}, bias, packed, past", packed, key, "bias packed past")
    for name, dtype in DTYPES.items():
        matrix = meta(BATCH, NUM_HEADS, Q_LEN, Q_LEN, dtype=dtype)
        yield Case(f"weights {name}", lambda matrix=matrix: weights.launch(matrix, 0, False))
        yield Case(f"weights {name}, aggregates", lambda matrix=matrix: weights.launch(matrix, 0, True))
    for heads in (1, NUM_HEADS):
        state = [meta(50257, dtype=torch.float64), *(meta(50257, heads, dtype=torch.float64) for _ in range(2))]
        state += [meta(50257, heads), meta(50257, heads)]
        plan = meta(5, BATCH * Q_LEN, dtype=torch.int64)
        assert plan.shape[1] > SEGMENT_CHUNK  # both kernels are launched
        given = (*state, meta(BATCH, heads, Q_LEN), plan)
        yield Case(f"tokens fp32, heads {heads}", lambda given=given: tokens.launch(*given))
