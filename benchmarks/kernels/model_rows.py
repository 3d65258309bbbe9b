"""Whole models on a GPU: capture beside the plain forward, for each attention backend, without and with gradients.

``ratio`` has entering and leaving in it, once a forward; ``open_ratio`` is a forward in a context that stays open.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import attviz
from benchmarks.kernels import timing
from benchmarks.kernels.timing import clocked, default_device, time_pairs
from benchmarks.kernels.truth import true_weights
from benchmarks.small_calls import Case, forward

Row = dict[str, object]
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@dataclass(frozen=True)
class ModelCase:
    """A model at one size; ``num_layers`` is cut until it fits."""

    name: str
    family: str
    batch: int
    q_len: int
    num_layers: int
    dtype: torch.dtype
    training: bool = False
    dense: bool = False  # small enough for eager attention to be tried
    width: int = 4096  # of a Llama's hidden states
    pairs: int = 3  # at least, of each comparison
    only: str = ""  # one backend, where a forward takes long

    def build(self, num_layers: int, implementation: str = "sdpa") -> nn.Module:
        import transformers

        shape = {"vocab_size": 32000, "num_hidden_layers": num_layers, "max_position_embeddings": max(512, self.q_len)}
        if self.family == "bert":
            config: object = transformers.BertConfig(**shape, attn_implementation=implementation)
            made = transformers.BertModel
        else:
            shape |= {"hidden_size": self.width, "intermediate_size": self.width * 7 // 2, "num_attention_heads": self.width // 128}
            shape["num_key_value_heads"] = self.width // 512
            config = transformers.LlamaConfig(**shape, use_cache=False, attn_implementation=implementation)
            made = transformers.LlamaModel
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)  # built in float32 first, the large ones would need twice their memory
        try:
            with torch.device(default_device()):
                model: nn.Module = made(config)
        finally:
            torch.set_default_dtype(before)
        return model.train() if self.training else model.eval()

    def inputs(self) -> dict[str, Tensor]:
        torch.manual_seed(1)
        return {"input_ids": torch.randint(0, 32000, (self.batch, self.q_len), device=default_device())}


CASES = (
    ModelCase("bert-base 32x512 fp16", "bert", 32, 512, 12, torch.float16, dense=True),
    ModelCase("bert-base 32x512 bf16 training", "bert", 32, 512, 12, torch.bfloat16, training=True),
    ModelCase("llama-3-8b 1x4096 bf16", "llama", 1, 4096, 32, torch.bfloat16, dense=True),
    ModelCase("llama-3-8b 1x4096 bf16 training", "llama", 1, 4096, 4, torch.bfloat16, training=True),
    ModelCase("llama-3-8b 1x32768 bf16", "llama", 1, 32768, 32, torch.bfloat16, dense=True),
    ModelCase("llama-3-8b 1x131072 bf16", "llama", 1, 131072, 16, torch.bfloat16, pairs=1, only="flash"),
)
DECODE = ModelCase("llama-like 32 layers, decode step bf16", "llama", 1, 64, 32, torch.bfloat16, width=512)


def fitting_model(case: ModelCase) -> tuple[nn.Module, int]:
    """The case's model with as many layers as fit, tried by a plain forward."""
    layers = case.num_layers
    while (model := _if_it_fits(case, layers)) is None:
        if layers == 1:
            raise torch.OutOfMemoryError(f"{case.name}: one layer does not fit.")
        layers //= 2
        clean()
    return model, layers


def _if_it_fits(case: ModelCase, layers: int) -> nn.Module | None:
    try:
        model = case.build(layers)
        step(case, model, case.inputs())()
    except torch.OutOfMemoryError:
        return None  # its tensors are freed when the error and this frame are gone
    return model


def step(case: ModelCase, model: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], Tensor]:
    """One forward, with the backward where the case trains; returns the last hidden state."""

    def run() -> Tensor:
        with contextlib.nullcontext() if case.training else torch.no_grad():
            hidden: Tensor = model(**inputs).last_hidden_state
        if case.training:
            model.zero_grad(set_to_none=True)
            hidden.float().square().mean().backward()
        return hidden.detach()

    return run


def measure(case: ModelCase, seconds: float, deadline: float = math.inf) -> Iterator[Row]:
    """Rows of one model: each backend plain and captured, and eager attention until it runs out of memory."""
    model, layers = fitting_model(case)
    for name, backend in BACKENDS.items():
        if case.only not in ("", name):
            continue
        row: Row = {"model": case.name, "backend": name, "layers": layers}
        if time.monotonic() > deadline:
            yield row | {"note": "not measured: out of time"}
            continue
        try:
            with sdpa_kernel(backend):
                row |= _row(case, model, seconds)
        except Exception as error:  # a backend that does not take this shape; and what one breaks must not cost the others
            row["note"] = f"{type(error).__name__}: " + " ".join(str(error).split())[:150]
        clean()
        yield row
    del model
    clean()
    if case.dense and time.monotonic() < deadline:
        yield _eager_row(case, layers)
        clean()


def _row(case: ModelCase, model: nn.Module, seconds: float) -> Row:
    run = step(case, model, case.inputs())
    cap_of: list[Tensor] = []

    def plain() -> Tensor:
        torch.manual_seed(2)  # a training forward drops the same weights again
        return run()

    def captured() -> Tensor:
        with attviz.capture(model) as cap:
            hidden = plain()
        cap_of[:] = [cap.diagonal]
        return hidden

    hidden, plain_peak = peak_bytes(plain)
    hidden = hidden.cpu()  # or it would count as memory of the capture
    same, capture_peak = peak_bytes(captured)
    bit_identical = torch.equal(hidden, same.cpu())
    del same
    assert bool(((cap_of[0] >= 0) & (cap_of[0] <= 1)).all()), "a diagonal is no probability"
    plain_time, capture_time = time_pairs(plain, captured, seconds, at_least=case.pairs)
    return {
        "plain_ms": plain_time.p50_ms,
        "capture_ms": capture_time.p50_ms,
        "ratio": capture_time.p50_ms / plain_time.p50_ms,
        "open_ratio": _inside(model, plain, seconds, case.pairs),
        "bit_identical": bit_identical,
        "plain_peak_mb": plain_peak / 2**20,
        "extra_peak_mb": (capture_peak - plain_peak) / 2**20,
        "diagonal_mb": cap_of[0].numel() * 4 / 2**20,
        "note": "",
    }


def _inside(model: nn.Module, plain: Callable[[], object], seconds: float, pairs: int) -> float:
    """A forward in a context that stays open, over a plain one: what each further step of a loop costs, when its layers are known."""

    def inside() -> float:
        with attviz.capture(model, keep="last"):
            plain(), plain()  # the first finds the layers, the second learns their short way
            return clocked(plain)

    one, two = [], []
    end = time.monotonic() + seconds * timing.PATIENCE
    while len(one) < pairs or time.monotonic() < end:
        one.append(clocked(plain))
        two.append(inside())
    return statistics.median(two) / statistics.median(one)


def measure_decode(seconds: float) -> Iterator[Row]:
    """One row: a decode step of 32 layers, in a context that stays open, where the host is all that counts."""
    model, row = DECODE.build(DECODE.num_layers), {"model": DECODE.name, "backend": "any", "layers": DECODE.num_layers}
    with torch.no_grad():
        run = forward(model, Case("llama", past=DECODE.q_len - 1))
        expected = true_weights(run)[..., -1]
        with attviz.capture(model) as cap:
            run()
        torch.testing.assert_close(cap.diagonal.double(), expected, rtol=2e-3, atol=2e-3)
        before = _launches(run)
        ratio = _inside(model, run, seconds, pairs=10)
        with attviz.capture(model, keep="last"):
            run(), run()
            more = _launches(run) - before
        plain = statistics.median(clocked(run) for _ in range(10))
    host_us = (ratio - 1) * plain * 1e3 / DECODE.num_layers
    note = f"{host_us:.0f} us more a layer, {more} launches more a step"
    yield row | {"plain_ms": plain, "open_ratio": ratio, "note": note}


def _launches(run: Callable[[], object]) -> int:
    """Kernels that a call launches; 0 without a GPU."""
    from torch.profiler import ProfilerActivity, profile

    if not torch.cuda.is_available():
        return 0
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    return sum(event.count for event in seen.key_averages() if "LaunchKernel" in event.key)


def _eager_row(case: ModelCase, layers: int) -> Row:
    """Eager attention with ``output_attentions``, the way of the other tools."""
    row: Row = {"model": case.name, "backend": "eager output_attentions", "layers": layers}
    clean()
    try:
        model, inputs = case.build(layers, "eager"), case.inputs()

        def dense() -> Tensor:
            with torch.no_grad():
                weights = model(**inputs, output_attentions=True).attentions
            return torch.stack([layer.diagonal(dim1=-2, dim2=-1) for layer in weights])

        dense()
        timing, _ = time_pairs(dense, lambda: None, 0.5, at_least=3)
        return row | {"capture_ms": timing.p50_ms, "plain_peak_mb": peak_bytes(dense)[1] / 2**20, "note": ""}
    except torch.OutOfMemoryError:
        return row | {"note": "out of memory"}
    except Exception as error:
        return row | {"note": f"{type(error).__name__}: " + " ".join(str(error).split())[:150]}


def peak_bytes(run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What a call returns, and the largest allocation of the device during it; 0 without a GPU."""
    clean()
    if not timing.gpu.is_available():
        return run(), 0
    timing.gpu.reset_peak_memory_stats()
    result = run()
    return result, int(timing.gpu.max_memory_allocated())


def clean() -> None:
    """Give back what is not in use."""
    gc.collect()
    timing.gpu.empty_cache()
