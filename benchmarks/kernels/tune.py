"""Measure block sizes on a GPU and write them into the committed table. Nobody tunes in a user's training loop.

python -m benchmarks.kernels.tune             # measures this GPU's architecture, keeps the rows of the others
python -m benchmarks.kernels.tune --dry-run   # prints, writes nothing
python -m benchmarks.kernels.tune --minutes 3 # the commonest head sizes first; what was not reached keeps its row

Candidates are compiled on all cores first, without the GPU: those that spill or find no room are not tried on it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import torch

from attviz.kernels.twins import MAX_HEAD_DIM_SINGLE
from benchmarks.kernels.cases import variants
from benchmarks.kernels.compile import TARGETS, compile_launch
from benchmarks.kernels.kernel_rows import Shape
from benchmarks.kernels.timing import time_calls

LENGTH = 4096
Blocks = dict[str, int]
Worker = Callable[..., "float | str"]  # calls a function with its arguments


def candidates(kernel: str) -> Iterator[Blocks]:
    """Block sizes worth a try; those that do not compile or spill lose by themselves."""
    if kernel == "logsumexp":
        for block_q, warps in itertools.product((16, 32, 64, 128), (2, 4, 8)):
            yield {"BLOCK_Q": block_q, "num_warps": warps}
    else:
        held, walked = ("BLOCK_K", "BLOCK_Q") if kernel == "received" else ("BLOCK_Q", "BLOCK_K")
        for large, small, warps, stages in itertools.product((64, 128), (16, 32, 64, 128), (4, 8), (1, 2, 3, 4)):
            yield {held: large, walked: small, "num_warps": warps, "num_stages": stages}


def call(kernel: str, head_dim: int, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """A Llama-like layer through the public function."""
    from attviz.kernels import diagonal_from_logsumexp, diagonal_from_qk, mass_from_logsumexp, received_from_logsumexp

    query, key = Shape("tune", 1, 32, 8, LENGTH, head_dim, dtype, True).make()
    logsumexp = torch.full(query.shape[:3], 9.0, device=query.device)
    if kernel == "logsumexp":
        return lambda: diagonal_from_logsumexp(query, key, logsumexp)
    if kernel == "received":
        return lambda: received_from_logsumexp(query, key, logsumexp, is_causal=True)
    if kernel == "mass":
        features = torch.rand(LENGTH, 16, device=query.device)
        return lambda: mass_from_logsumexp(query, key, logsumexp, features, is_causal=True)
    bias = torch.zeros(1, 1, LENGTH, LENGTH, device=query.device, dtype=dtype) if kernel == "qk_bias" else None
    return lambda: diagonal_from_qk(query, key, is_causal=True, bias=bias)


def home(kernel: str) -> str:
    """Where the launch function of a kernel asks the table."""
    return f"attviz.kernels.triton.{'logsumexp' if kernel == 'logsumexp' else 'pairs'}"


@contextlib.contextmanager
def using(kernel: str, blocks: Blocks) -> Iterator[None]:
    """These blocks instead of the table's."""
    with mock.patch(f"{home(kernel)}.tuned", side_effect=lambda *_, **__: dict(blocks)):
        yield


def fault(arch: str, kernel: str, dtype: torch.dtype, head_dim: int, blocks: Blocks) -> str:
    """Why these blocks are not worth a try on ``arch``; empty if they are. Triton's cache keeps the binary for the launch on the GPU."""
    case = next(variants(kernel, dtype, head_dim))
    with using(kernel, blocks):  # outside what is caught: a fault of ours is not one of the blocks
        try:
            reports = compile_launch(case.launch, arch)
        except Exception as error:  # blocks that the compiler does not take
            return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    return "; ".join(found for name, report in reports.items() for found in case.faults(name, report, arch))


def worth_a_try(
    pool: concurrent.futures.Executor, arch: str, kernel: str, dtype: torch.dtype, head_dim: int, tried: Sequence[Blocks]
) -> list[Blocks]:
    """Those of the candidates without a fault; all where the architecture is none of the compiled ones."""
    if arch not in TARGETS:
        return list(tried)
    jobs = [pool.submit(fault, arch, kernel, dtype, head_dim, blocks) for blocks in tried]
    return [blocks for blocks, job in zip(tried, jobs, strict=True) if not job.result()]


@functools.lru_cache(maxsize=1)
def known(kernel: str, head_dim: int, dtype: torch.dtype) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """The call, and what the table's blocks give; once for all candidates of a row."""
    run = call(kernel, head_dim, dtype)
    return run, run()


def milliseconds(kernel: str, head_dim: int, dtype: torch.dtype, blocks: Blocks) -> float | str:
    """Of one candidate, or what is wrong with it: its answer, or too little shared memory."""
    run, expected = known(kernel, head_dim, dtype)
    with using(kernel, blocks):
        try:
            torch.testing.assert_close(run(), expected, rtol=1e-3, atol=1e-5)
            return time_calls([run], seconds=0.05).p50_ms
        except torch.AcceleratorError:
            raise  # the device is broken for this process
        except Exception as error:  # no room in shared memory is Triton's own error, no RuntimeError
            return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"


def best(kernel: str, head_dim: int, dtype: torch.dtype, tried: Sequence[Blocks], worker: Worker) -> tuple[Blocks, float] | None:
    """Fastest blocks that give what the table's blocks give, and their milliseconds."""
    results: list[tuple[float, Blocks]] = []
    for blocks in tried:
        found = worker(milliseconds, kernel, head_dim, dtype, blocks)
        if isinstance(found, str):
            print(f"  {blocks}: {found}", flush=True)
        else:
            results.append((found, blocks))
    if not results:
        return None
    fastest, blocks = min(results, key=lambda result: result[0])
    return blocks, fastest


class OneProcess:
    """Runs functions in a process of its own, a new one after each crash: a tile that is compiled wrong breaks its process."""

    def __init__(self) -> None:
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __call__(self, function: Callable[..., float | str], *args: object) -> float | str:
        if self._pool is None:  # a forked process could not use the GPU's driver
            self._pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            return self._pool.submit(function, *args).result()
        except (torch.AcceleratorError, concurrent.futures.BrokenExecutor) as error:
            self.close()
            return f"breaks the device: {' '.join(str(error).split())[:80]}"

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print, do not write")
    parser.add_argument("--minutes", type=float, default=8.0, help="start no further row after so many minutes")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("No GPU here: block sizes can only be measured on one. The table stays as it is.", file=sys.stderr)
        return 2
    from attviz.kernels.triton.launch import TABLE, architecture

    arch = architecture(torch.cuda.current_device())
    table = json.loads(TABLE.read_text())
    deadline = time.monotonic() + 60 * arguments.minutes
    spawned = multiprocessing.get_context("spawn")  # a forked process could not use the GPU's driver
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=spawned) as pool, contextlib.closing(OneProcess()) as worker:
        for head_dim, dtype, kernel in itertools.product((128, 64, 32, 256, 16), (torch.bfloat16, torch.float32), table["kernels"]):
            if dtype is torch.float32 and head_dim > MAX_HEAD_DIM_SINGLE and kernel != "logsumexp":
                continue
            row = f"{arch}/{'float32' if dtype is torch.float32 else 'half'}/{head_dim}"
            if time.monotonic() > deadline:
                print(f"{kernel} {row}: not measured, out of time", flush=True)
                continue
            found = best(kernel, head_dim, dtype, worth_a_try(pool, arch, kernel, dtype, head_dim, list(candidates(kernel))), worker)
            if found is None:
                print(f"{kernel} {row}: no candidate ran, the row stays", flush=True)
                continue
            table["kernels"][kernel][row] = found[0]
            table["measured"] = sorted({*table.get("measured", []), arch})
            print(f"{kernel} {row}: {found[0]} {found[1]:.3f} ms", flush=True)
            if not arguments.dry_run:
                TABLE.write_text(layout(table))  # after each row: whoever stops the run keeps it
    return 0


def layout(table: dict[str, object]) -> str:
    """The table as JSON with one row per line."""
    kernels = table["kernels"]
    assert isinstance(kernels, dict)
    lines = ["{", *(f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in table.items() if name != "kernels"), '  "kernels": {']
    for place, (kernel, rows) in enumerate(kernels.items()):
        body = ",\n".join(f"      {json.dumps(name)}: {json.dumps(blocks)}" for name, blocks in sorted(rows.items()))
        lines += [f"    {json.dumps(kernel)}: {{", body, "    }" + ("," if place < len(kernels) - 1 else "")]
    return "\n".join([*lines, "  }", "}"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
