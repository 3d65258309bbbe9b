"""Each reading in a whole model: its answer against the dense softmax in float64 first, then its price over a capture without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

import attviz
from attviz import readings as r
from benchmarks.kernels.model_rows import ModelCase, clean
from benchmarks.kernels.timing import time_pairs
from benchmarks.kernels.truth import true_weights

Row = dict[str, object]
Truth = Callable[[Tensor], Tensor]  # from the weights of every layer in float64, [num_layers, batch, num_heads, q_len, kv_len]

READINGS: dict[str, tuple[r.Reading, Truth]] = {
    "previous token": (r.Offset(-1), lambda weights: weights.diagonal(-1, -2, -1)),
    "first four keys": (r.Keys(first=4), lambda weights: weights[..., :4].sum(-1)),
    "last row": (r.Rows(-1), lambda weights: weights[..., -1:, :]),
    "row entropy": (r.RowEntropy(), lambda weights: torch.special.entr(weights).sum(-1)),
    "window of 128": (r.Window(128), lambda weights: weights.tril(127).triu(-127).sum(-1)),
    "received": (r.Received(), lambda weights: weights.sum(-2)),
    "distance": (r.Distance(), lambda weights: (weights * _distances(weights.shape[-1], weights.device)).sum(-1)),
}
GPU_CASES = (
    ModelCase("llama-3-8b 1x4096 bf16", "llama", 1, 4096, 4, torch.bfloat16),
    ModelCase("llama-3-8b 1x16384 bf16", "llama", 1, 16384, 2, torch.bfloat16),
    *(ModelCase(f"received, 1 x 32 x {length} bf16", "llama", 1, length, 1, torch.bfloat16) for length in (1024, 2048, 8192, 32768)),
)
CPU_CASES = (ModelCase("bert 1x64 fp32", "bert", 1, 64, 2, torch.float32),)


def _distances(length: int, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    return (places[:, None] - places).abs().double()


def measure(case: ModelCase, seconds: float, deadline: float, names: tuple[str, ...] = tuple(READINGS)) -> Iterator[Row]:
    """Rows of one model: one for each reading, the answer checked at 64 tokens before a time is taken."""
    small = replace(case, q_len=64)
    with torch.no_grad():
        model, inputs = small.build(case.num_layers), small.inputs()
        weights = true_weights(partial(model, **inputs))
        found = {name: _captured(model, inputs, READINGS[name][0]) for name in names}
        del model
        run = _run(case.build(case.num_layers), case.inputs())
        for name in names:
            row: Row = {"reading": name, "model": case.name}
            if time.monotonic() > deadline:
                yield row | {"note": "not measured: out of time"}
                continue
            if wrong := _wrong(name, found[name], weights, case.dtype):
                yield row | {"note": f"wrong, so not timed: {wrong}"}
                continue
            yield row | _timed(run, READINGS[name][0], seconds)
            clean()


def _run(model: torch.nn.Module, inputs: dict[str, Tensor]) -> Callable[[tuple[r.Reading, ...]], None]:
    def run(readings: tuple[r.Reading, ...]) -> None:
        with attviz.capture(model, read=list(readings)):
            model(**inputs)

    return run


def _captured(model: torch.nn.Module, inputs: dict[str, Tensor], reading: r.Reading) -> Tensor:
    with attviz.capture(model, read=[reading]) as cap:
        model(**inputs)
    found = cap.reading(reading.name)
    return found


def _wrong(name: str, found: Tensor, weights: Tensor, dtype: torch.dtype) -> str:
    """What differs from the true weights; empty if nothing does."""
    expected, tolerance = READINGS[name][1](weights), 1e-4 if dtype is torch.float32 else 2e-3  # matrix products of half precision
    found = found[:, 0] if found.ndim == expected.ndim + 1 else found  # received comes with the number of queries that see a key
    if name == "previous token":
        found = found[..., 1:]
    try:
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    except AssertionError as error:
        return " ".join(str(error).split())[:150]
    return ""


def _timed(run: Callable[[tuple[r.Reading, ...]], None], reading: r.Reading, seconds: float) -> Row:
    plain, read = time_pairs(lambda: run(()), lambda: run((reading,)), seconds, at_least=3)
    return {"capture_ms": plain.p50_ms, "with_reading_ms": read.p50_ms, "ratio": read.p50_ms / plain.p50_ms, "note": ""}
