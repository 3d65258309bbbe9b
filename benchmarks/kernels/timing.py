"""Time on a device: CUDA events over rotating inputs, or the clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

ROTATION_BYTES = 256 << 20  # more than any second-level cache: no repetition finds its inputs there


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median and the 20th and 80th percentile."""

    p50_ms: float
    p20_ms: float
    p80_ms: float


def copies_needed(bytes_per_call: int) -> int:
    """How many sets of inputs to rotate through."""
    return max(1, min(32, ROTATION_BYTES // max(1, bytes_per_call) + 1))


def time_calls(runs: Sequence[Callable[[], object]], seconds: float = 0.4, at_least: int = 10) -> Timing:
    """Time calls that do the same to different inputs, in turn, for about ``seconds``."""
    for run in runs[: max(3, at_least // 4)]:
        run()
    return Timing(*_percentiles(_on_gpu(runs, seconds, at_least) if torch.cuda.is_available() else _on_cpu(runs, seconds, at_least)))


def time_pairs(first: Callable[[], object], second: Callable[[], object], seconds: float, at_least: int = 5) -> tuple[Timing, Timing]:
    """Time two ways in alternation, so that a change of clock or heat meets both alike."""
    one, two = [], []
    first(), second()
    timer = _on_gpu if torch.cuda.is_available() else _on_cpu
    end = time.monotonic() + seconds
    while len(one) < at_least or time.monotonic() < end:
        one += timer([first], 0.0, 1)
        two += timer([second], 0.0, 1)
    return Timing(*_percentiles(one)), Timing(*_percentiles(two))


def _on_gpu(runs: Sequence[Callable[[], object]], seconds: float, at_least: int) -> list[float]:
    samples: list[float] = []
    end = time.monotonic() + seconds
    while len(samples) < at_least or (time.monotonic() < end and len(samples) < 2000):
        marks = []
        for run in runs[:32] if len(runs) > 1 else list(runs) * min(at_least, 8):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            stop.record()
            marks.append((start, stop))
        torch.cuda.synchronize()
        samples += [start.elapsed_time(stop) for start, stop in marks]
    return samples


def _on_cpu(runs: Sequence[Callable[[], object]], seconds: float, at_least: int) -> list[float]:
    samples: list[float] = []
    end = time.monotonic() + seconds
    while len(samples) < at_least or time.monotonic() < end:
        run = runs[len(samples) % len(runs)]
        begin = time.perf_counter()
        run()
        samples.append((time.perf_counter() - begin) * 1e3)
    return samples


def _percentiles(samples: list[float]) -> tuple[float, float, float]:
    samples = sorted(samples)
    return statistics.median(samples), samples[len(samples) // 5], samples[len(samples) * 4 // 5]


def copy_bandwidth() -> float:
    """Bytes a second that a plain copy moves, read and write counted; the floor of a kernel bound by bytes."""
    numel = (1 << 28) if torch.cuda.is_available() else (1 << 24)
    source = torch.ones(numel, dtype=torch.float32, device=default_device())
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (time_calls([lambda: target.copy_(source)]).p50_ms / 1e3)


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large square product; the floor of a kernel bound by the matrix units."""
    size = 8192 if torch.cuda.is_available() else 512
    a = torch.randn(size, size, device=default_device()).to(dtype)
    return 2 * size**3 / (time_calls([lambda: a @ a]).p50_ms / 1e3)


def default_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
