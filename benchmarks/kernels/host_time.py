"""Microseconds of the host for one launch, without a GPU: the launch path as it is, with a driver that does nothing.

python -m benchmarks.kernels.host_time       # prints one line a path; nothing is written

What a driver itself takes (about 3 us on CUDA) comes on top. ``operator`` goes through torch.library and its checks, ``direct`` is what a
capture calls inside the attention operator, ``jit`` is Triton's own way through its just-in-time compiler. ``decode, together`` is one
launch for the 32 layers of a decode step: the table that tells the device where they are, and the launch, divided by the layers. The last
two lines are what a common buffer for all layers would save (docs/kernels.md): the allocator of the CPU stands in for CUDA's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from unittest import mock

import torch
import triton

from attviz.kernels import logsumexp as operator
from attviz.kernels.triton import launch, logsumexp, small_calls
from benchmarks.kernels.compile import Recorded, recording

REPEATS, ROUNDS = 300, 15
LAYERS, LONG = 32, (1, 32, 4096)
OF_ALL_LAYERS = ("decode, together", "row of one buffer")


class Nothing:
    """A compiled kernel that launches nothing, and is called like one."""

    function = packed_metadata = None

    def __init__(self, recorded: Recorded) -> None:
        self.calls = 0

    def launch_metadata(self, *_: object) -> None:
        return None

    def run(self, *_: object) -> None:
        self.calls += 1

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        def runner(*arguments: object) -> None:
            device = triton.runtime.driver.active.get_current_device()
            stream = triton.runtime.driver.active.get_current_stream(device)
            self.run(
                *grid, stream, self.function, self.packed_metadata, self.launch_metadata(grid, stream, *arguments), None, None, *arguments
            )

        return runner


def paths() -> dict[str, Callable[[], object]]:
    """Ways to the same launch: one layer of Llama-3-8B, one decode step and one packed batch."""
    prefill = [torch.zeros(1, 64, heads, 128, dtype=torch.bfloat16).transpose(1, 2) for heads in (32, 8)]
    decode = [torch.zeros(1, heads, length, 128, dtype=torch.bfloat16) for heads, length in ((32, 1), (8, 64))]
    edges = torch.tensor([0, 20, 64], dtype=torch.int32)
    long, short, none = torch.zeros(1, 32, 64), torch.zeros(1, 32, 1), (None,) * 4

    def direct(query: torch.Tensor, key: torch.Tensor, lse: torch.Tensor, offset: int, *texts: torch.Tensor) -> Callable[[], object]:
        given = (0.1, None, None, offset, 0.0, None, None, *(texts or (None, None)), 0, -1, -1)
        return lambda: logsumexp.launch_diagonal(query, key, lse, *given)

    def jit() -> object:
        launch._kept.clear()
        return logsumexp.launch_diagonal(*prefill, long, 0.1, None, None, 0, 0.0, *none, 0, -1, -1)

    layers = [[torch.zeros_like(tensor) for _ in range(LAYERS)] for tensor in (*decode, short)]

    def together() -> object:
        return small_calls.launch(*layers, [], 0.1, [63] * LAYERS, None, False)

    return {
        "direct, prefill": direct(*prefill, long, 0),
        "direct, decode": direct(*decode, short, 63),
        "direct, packed": direct(*prefill, long, 0, edges, edges),
        "decode, together": together,
        "operator, prefill": lambda: operator.diagonal_from_logsumexp(*prefill, long),
        "jit, prefill": jit,
        "output of its own": lambda: launch.outliving(LONG, prefill[0].device),
        "row of one buffer": lambda: launch.outliving((LAYERS, *LONG), prefill[0].device).unbind(),
    }


def measure(run: Callable[[], object]) -> float:
    """Median of rounds, in microseconds a call."""
    run()
    rounds = []
    for _ in range(ROUNDS):
        begin = time.thread_time()
        for _ in range(REPEATS):
            run()
        rounds.append((time.thread_time() - begin) / REPEATS * 1e6)
    return statistics.median(rounds)


def main() -> int:
    torch.set_num_threads(1)
    kept: dict[object, Nothing] = {}

    def once(recorded: Recorded) -> Nothing:
        return kept.setdefault(recorded.source.hash(), Nothing(recorded))

    with recording("sm_90", once), mock.patch.object(operator, "_logsumexp_op", logsumexp.launch), torch.no_grad():
        for name, run in paths().items():
            layers = LAYERS if name in OF_ALL_LAYERS else 1
            print(f"{name:20} {measure(run) / layers:6.1f} us a layer", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
