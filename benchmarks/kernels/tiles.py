"""Choose tiles without a GPU: for each architecture the largest that compile without a spill into its registers and shared memory.

python -m benchmarks.kernels.tiles            # all architectures; rows that are clean stay as they are
python -m benchmarks.kernels.tiles gfx1100    # one of them
python -m benchmarks.kernels.tiles --kernel received
python -m benchmarks.kernels.tiles --again    # rows that say torch, too: was the search too narrow, or the compiler too old?

A tile is clean if every case that asks for its row compiles with it, sizes of 1 and odd strides among them. What was measured on a GPU
(``measured`` in the table) is left alone. Where no candidate is clean, or the compiler has no matrix instruction for an architecture, the
row becomes null, and torch serves. The table is written after each row, and Triton keeps what it compiled: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator
from unittest import mock

import torch

from attviz.kernels.triton.launch import TABLE, tuned
from attviz.kernels.twins import MAX_HEAD_DIM_SINGLE, NoTile
from benchmarks.kernels.cases import KERNELS, Case, cases
from benchmarks.kernels.compile import TARGETS, compile_launch, recording
from benchmarks.kernels.tune import Blocks, home, layout, using

# (queries, keys, warps, stages) from the largest down
QK = (
    *((128, 64, 8, 3), (128, 64, 8, 2), (128, 32, 8, 2), (128, 32, 8, 1), (64, 64, 8, 2), (64, 64, 4, 2), (64, 32, 8, 2), (64, 32, 4, 2)),
    *((64, 32, 4, 1), (64, 16, 8, 1), (64, 16, 4, 1), (32, 32, 8, 1), (32, 32, 4, 1), (32, 16, 8, 1), (32, 16, 4, 1), (32, 16, 2, 1)),
    *((16, 16, 4, 1), (16, 16, 2, 1), (16, 16, 1, 1)),
)
LOGSUMEXP = ((128, 4), (64, 4), (32, 4), (16, 4), (16, 8))


def candidates(kernel: str) -> Iterator[Blocks]:
    """Tiles from the largest down."""
    if kernel == "logsumexp":
        yield from ({"BLOCK_Q": rows, "num_warps": warps} for rows, warps in LOGSUMEXP)
    elif kernel == "received":  # a program holds a block of keys, and walks over queries
        yield from ({"BLOCK_Q": k, "BLOCK_K": q, "num_warps": warps, "num_stages": stages} for q, k, warps, stages in QK)
    else:
        yield from ({"BLOCK_Q": q, "BLOCK_K": k, "num_warps": warps, "num_stages": stages} for q, k, warps, stages in QK)


@functools.cache
def asking() -> dict[tuple[str, bool, int], list[Case]]:
    """The cases by the row of the table that they ask for: (kernel, whether float32, padded size of a head)."""
    found: dict[tuple[str, bool, int], list[Case]] = {}
    for case in cases():
        rows: set[tuple[str, bool, int]] = set()

        def ask(kernel: str, _: str, width: int, single: bool = False, rows: set[tuple[str, bool, int]] = rows) -> Blocks:
            rows.add((kernel, single, width))
            return {"BLOCK_Q": 16, "num_warps": 1} | ({} if kernel == "logsumexp" else {"BLOCK_K": 16, "num_stages": 1})

        with recording("sm_90"), mock.patch(f"{home('logsumexp')}.tuned", ask), mock.patch(f"{home('qk')}.tuned", ask):
            case.launch()
        for row in rows:
            found.setdefault(row, []).append(case)
    return found


def faults(arch: str, kernel: str, dtype: torch.dtype, head_dim: int, blocks: Blocks) -> list[str]:
    """What is wrong with these blocks, in the first case that has a fault; the longest names ask the most, and come first."""
    for case in sorted(asking()[kernel, dtype is torch.float32, head_dim], key=lambda case: -len(case.name)):
        with using(kernel, blocks):  # outside what is caught: a fault of ours is not one of the blocks
            try:
                reports = compile_launch(case.launch, arch)
            except Exception as error:  # blocks that the compiler does not take
                return [f"{case.name}: {type(error).__name__}: {' '.join(str(error).split())[:80]}"]
        if found := [fault for name, report in reports.items() for fault in case.faults(name, report, arch)]:
            return found
    return []


def no_larger(blocks: Blocks, than: Blocks) -> bool:
    """Whether these blocks hold no more than others, in all and in each warp: what spills in the others can only be mended by such."""
    (area, each), (limit, limit_each) = (
        (tile["BLOCK_Q"] * tile.get("BLOCK_K", 1), tile["BLOCK_Q"] * tile.get("BLOCK_K", 1) / tile["num_warps"]) for tile in (blocks, than)
    )
    return area <= limit and each <= limit_each and blocks != than


def choose(arch: str, kernel: str, dtype: torch.dtype, head_dim: int, again: bool = False) -> Blocks | None:
    """The tile of the table where it is clean, else the largest candidate that is; None where there is none.

    Args:
        arch: One of :data:`TARGETS`.
        kernel: One of :data:`KERNELS`.
        dtype: float32, or bfloat16 for the two of 16 bits.
        head_dim: A power of two.
        again: Search where the table has no tile, too.
    """
    try:
        present = dict(tuned(kernel, arch, head_dim, dtype is torch.float32))
    except NoTile:
        if not again:
            return None
        tried = list(candidates(kernel))
    else:
        tried = [present, *(blocks for blocks in candidates(kernel) if no_larger(blocks, present))]
    for blocks in tried:
        found = faults(arch, kernel, dtype, head_dim, blocks)
        if not found:
            return blocks
        print(f"  {blocks}: {'; '.join(found)}", flush=True)
        if any("no matrix instruction" in fault for fault in found):
            return None  # no size of tile brings one
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archs", nargs="*", help=f"some of {', '.join(TARGETS)}; default all")
    parser.add_argument("--kernel", choices=KERNELS, action="append", help="only this one; may be given several times")
    parser.add_argument("--again", action="store_true", help="search the rows that say torch, too")
    arguments = parser.parse_args(argv)
    table = json.loads(TABLE.read_text())
    for arch in arguments.archs or TARGETS:
        for kernel in arguments.kernel or KERNELS:
            rows = table["kernels"][kernel]
            for dtype, widths in ((torch.bfloat16, (16, 32, 64, 128, 256)), (torch.float32, (16, 32, 64, 128, 256))):
                for head_dim in widths:
                    if arch in table["measured"] or (kernel != "logsumexp" and dtype is torch.float32 and head_dim > MAX_HEAD_DIM_SINGLE):
                        continue
                    size = f"{'float32' if dtype is torch.float32 else 'half'}/{head_dim}"
                    chosen = choose(arch, kernel, dtype, head_dim, arguments.again)
                    if chosen != rows.get(f"{arch}/{size}", rows[f"default/{size}"]):
                        rows[f"{arch}/{size}"] = chosen
                    print(f"{kernel} {arch}/{size}: {chosen or 'torch'}", flush=True)
                    TABLE.write_text(layout(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
