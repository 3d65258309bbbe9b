"""The GPU benchmark walked through without a GPU: every row of a real run, on small sizes, so that the first real run dies of no typo.

The tables of a GPU run are used, its way of timing too, with a device that takes a millisecond for everything. Nothing that comes out is a
measurement. A backend that only a GPU has says so in its row.
"""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor

from benchmarks.kernels import kernel_rows, model_rows, peer_rows, reading_rows, timing
from benchmarks.kernels.kernel_rows import Shape
from benchmarks.kernels.model_rows import ModelCase


class _Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def elapsed_time(self, stop: object) -> float:
        return 1.0


class Device:
    """What the benchmark asks of ``torch.cuda``."""

    Event = _Event

    def is_available(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def _sleep(self, cycles: int) -> None:
        assert cycles > 0

    def reset_peak_memory_stats(self) -> None:
        pass

    def max_memory_allocated(self) -> int:
        return 0

    def empty_cache(self) -> None:
        pass


def small_shape(shape: Shape) -> Shape:
    """The same attention, of few heads and tokens."""
    groups = shape.num_heads // shape.num_kv_heads
    return replace(shape, batch=1, num_heads=2 * groups, num_kv_heads=2, q_len=80, head_dim=16)


def small_model(case: ModelCase) -> ModelCase:
    """The same model, of few layers and tokens; a Llama narrower too."""
    return replace(case, batch=1, q_len=min(case.q_len, 72), num_layers=1, width=512)


def colreduce(query: Tensor, key: Tensor, reduction: str, is_causal: bool = False) -> Tensor:
    """What flash-colreduce gives, dense."""
    assert reduction == "sum"
    scores = query.float() @ key.float().mT / math.sqrt(query.shape[-1])
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1).sum(-2).to(query.dtype)


def extract_attention(
    model: torch.nn.Module, inputs: dict[str, Tensor], heads: list[tuple[int, int]]
) -> dict[tuple[str, int, int], Tensor]:
    """What attnread gives, by eager attention."""
    model.set_attn_implementation("eager")  # type: ignore[operator]
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")  # type: ignore[operator]
    return {("text", layer, head): weights[layer][:, head] for layer, head in heads}


@contextlib.contextmanager
def rehearsing() -> Iterator[None]:
    """The tables and the timing of a GPU, small, on the CPU."""
    peers = {
        "flash_colreduce": types.SimpleNamespace(flash_colreduce=colreduce),
        "attnread": types.SimpleNamespace(extract_attention=extract_attention),
    }
    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (timing, "gpu", Device()),
            (kernel_rows, "GPU_SHAPES", tuple(map(small_shape, kernel_rows.GPU_SHAPES))),
            (model_rows, "CASES", tuple(map(small_model, model_rows.CASES))),
            (model_rows, "DECODE", replace(small_model(model_rows.DECODE), num_layers=2)),
            (reading_rows, "GPU_CASES", tuple(map(small_model, reading_rows.GPU_CASES))),
            (peer_rows, "SHAPES", tuple(map(small_shape, peer_rows.SHAPES[:2]))),
            (peer_rows, "MODEL", small_model(peer_rows.MODEL)),
            (peer_rows, "installed", peers.get),
            (timing, "ROTATION_BYTES", 1),
            (timing, "PATIENCE", 0.0),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield
