"""Time on a device: CUDA events over rotating inputs, or the clock on a CPU."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

ROTATION_BYTES = 256 << 20  # more than any second-level cache: no repetition finds its inputs there
CYCLES_PER_SECOND = 2_000_000_000  # of a GPU's clock, about: only to keep the device busy for a while
gpu: Any = torch.cuda  # a stand-in for it in a rehearsal
PATIENCE = 1.0  # of the seconds asked for; a rehearsal has none


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
    """Time calls that do the same to different inputs, in turn, for about ``seconds``; on a GPU the device's time alone."""
    for run in runs[: max(3, at_least // 4)]:
        run()
    return Timing(*_percentiles(_on_gpu(runs, seconds, at_least) if gpu.is_available() else _on_cpu(runs, seconds, at_least)))


def time_pairs(first: Callable[[], object], second: Callable[[], object], seconds: float, at_least: int = 5) -> tuple[Timing, Timing]:
    """Time two ways in alternation, so that a change of clock or heat meets both alike; what the host does in between counts."""
    one, two = [], []
    first(), second()
    end = time.monotonic() + seconds * PATIENCE
    while len(one) < at_least or time.monotonic() < end:
        one.append(clocked(first))
        two.append(clocked(second))
    return Timing(*_percentiles(one)), Timing(*_percentiles(two))


def clocked(run: Callable[[], object]) -> float:
    """Milliseconds by the clock, from an idle device to an idle device."""
    wait = gpu.synchronize if gpu.is_available() else lambda: None
    wait()
    begin = time.perf_counter()
    run()
    wait()
    return (time.perf_counter() - begin) * 1e3


def _on_gpu(runs: Sequence[Callable[[], object]], seconds: float, at_least: int) -> list[float]:
    """Each sample is the mean of so many calls that they take a millisecond; all are queued before the first begins.

    The host needs some 50 microseconds for a call: on an idle device the events would time that, not the kernel.
    """
    once, host_s = _between_events(runs[:1], 0.0)
    length = max(1, min(64, round(1.0 / max(once, 1e-3))))
    head_start_s = min(0.05, 1.5 * host_s * length + 1e-4)
    turn = itertools.cycle(runs)
    samples: list[float] = []
    end = time.monotonic() + seconds * PATIENCE
    while len(samples) < at_least or (time.monotonic() < end and len(samples) < 2000):
        samples.append(_between_events(list(itertools.islice(turn, length)), head_start_s)[0] / length)
    return samples


def _between_events(runs: Sequence[Callable[[], object]], head_start_s: float) -> tuple[float, float]:
    """Milliseconds of the device for all the runs, and seconds of the host; the device idles on purpose for the host's head start."""
    start, stop = gpu.Event(enable_timing=True), gpu.Event(enable_timing=True)
    begin = time.perf_counter()
    if head_start_s:
        gpu._sleep(int(head_start_s * CYCLES_PER_SECOND))
    start.record()
    for run in runs:
        run()
    stop.record()
    host_s = time.perf_counter() - begin
    gpu.synchronize()
    return start.elapsed_time(stop), host_s


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
    numel = (1 << 28) if default_device() == "cuda" else (1 << 24)
    source = torch.ones(numel, dtype=torch.float32, device=default_device())
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (time_calls([lambda: target.copy_(source)]).p50_ms / 1e3)


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large square product; the floor of a kernel bound by the matrix units."""
    size = 8192 if default_device() == "cuda" else 512
    a = torch.randn(size, size, device=default_device()).to(dtype)
    return 2 * size**3 / (time_calls([lambda: a @ a]).p50_ms / 1e3)


def default_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
