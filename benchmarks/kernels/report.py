"""Write docs/kernels.md: what every kernel takes of each architecture, compiled ahead of time. Needs no GPU.

python -m benchmarks.kernels.report              # the lines of the page, all architectures, some minutes; writes the page
python -m benchmarks.kernels.report sm_90        # prints one architecture, writes nothing
python -m benchmarks.kernels.report --all        # every case there is, an hour; writes nothing, exit 1 on a spill
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import triton

from attviz.kernels.triton.launch import TABLE
from benchmarks.kernels.cases import KERNELS, Case, cases
from benchmarks.kernels.compile import TARGETS, Report, compile_launch

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
HEADER = """# Kernels, compiled ahead of time

Written by `python -m benchmarks.kernels.report` with {versions}, on a machine without a GPU: these are the binaries'
own numbers, not timings. A cell reads registers / shared memory in KiB / matrix instructions / vector loads : scalar loads; registers are
those of a thread, instructions are counted in the program text, not in what runs. Spilled is what the assembler could not keep in
registers, in bytes of stack (scratch on AMD), over all architectures; the script fails unless it is 0.

Where no tile is free of spills, or the compiler has no matrix instruction for an architecture, the table of tiles
(`attviz/kernels/triton/tuning.json`, chosen by `python -m benchmarks.kernels.tiles`) says so, and the cell reads *torch*: there the
implementation in torch serves. So it does everywhere for matrix products of float32 with heads of more than 128, and in these rows of the
table (dtype / size of a head, rounded up to a power of two):

{served}

A tile is clean if every case that asks for its row compiles so, sizes of 1 and odd strides among them. All rows of all architectures were
chosen that way with triton 3.7.1, which torch 2.13 requires; with another version a few bytes may spill.

The page holds a selection. `--all` compiles every case (each dtype and size of a head with the least and the most that can be asked of a
kernel, sizes of 1, odd strides, offsets beyond 32 bits) for every architecture; the tests compile each case for one architecture in turn,
and compare with this table where the same versions are installed.

## Where a diagonal is written

The small calls of a forward are finished by one launch into one buffer. A longer call writes into storage of its own. One buffer
`[num_layers, batch, num_heads, q_len]` for these, too, was measured and left out. It would save 0.7 of 14 microseconds of the host a
layer (`python -m benchmarks.kernels.host_time`, its last two lines). It shows in no peak of memory that could be measured: the diagonals
of BERT-base at 1 x 512 are 288 KiB, and two runs of the same code differ by more than that. And users would pay for it: a record is
theirs, and a record that is a row of the buffer keeps the whole buffer alive. Keeping one layer of each step of a training would hold all
of them (294912 bytes instead of 24576), `torch.save` of one diagonal would write all of them, and `keep="none"` would hold every layer
until the forward ends where it holds one. A buffer that is used again for the next forward would overwrite what was handed out. Reading
`cap.diagonal` copies the layers together.

## What each kernel takes

"""


def cell(report: Report) -> str:
    """One report in a table cell."""
    loads = f"{report.vector_loads}:{report.scalar_loads}"
    return f"{report.registers} / {report.shared_bytes / 1024:.0f} / {report.matrix} / {loads}"


def served_by_torch() -> str:
    """A table of the rows that hold no tile."""
    table = json.loads(TABLE.read_text())["kernels"]
    lines = ["| kernel | architectures | rows |", "|---|---|---|"]
    for kernel in KERNELS:
        alike: dict[str, list[str]] = {}  # rows without a tile -> architectures
        for arch in TARGETS:
            sizes = [name.partition("/")[2] for name, blocks in table[kernel].items() if name.startswith(f"{arch}/") and blocks is None]
            if sizes:
                ordered = sorted(sizes, key=lambda size: (size.partition("/")[0], int(size.partition("/")[2])))
                alike.setdefault(", ".join(ordered), []).append(arch)
        lines += [f"| {kernel} | {', '.join(archs)} | {sizes} |" for sizes, archs in alike.items()]
    return "\n".join(lines)


def versions() -> str:
    """The compiler, as the page names it: another one may count other registers."""
    return f"triton {triton.__version__} and torch {torch.__version__.split('+')[0]}"


def committed_cells() -> dict[tuple[str, str, str], str]:
    """The page's cells by (case, kernel, architecture); empty where other versions than the installed ones wrote it."""
    page = PAGE.read_text()
    if versions() not in page or f"| {' | '.join(TARGETS)} |" not in page:
        return {}
    cells = {}
    for line in page.splitlines():
        if line.startswith("| ") and "`" in line:
            name, kernel, *found, _ = line.strip("| ").split(" | ")
            cells |= {(name, kernel.strip("`"), arch): text for arch, text in zip(TARGETS, found, strict=True)}
    return cells


def rows(archs: list[str], chosen: Iterable[Case]) -> tuple[list[str], list[str]]:
    """Table rows of the cases on the architectures, and the promises broken."""
    lines, faults = [], []
    for case in chosen:
        reports = {arch: compile_launch(case.launch, arch) for arch in archs}
        for kernel in dict.fromkeys(kernel for found in reports.values() for kernel in found):
            found = {arch: reports[arch][kernel] for arch in archs if kernel in reports[arch]}
            faults += [fault for arch, report in found.items() for fault in case.faults(kernel, report, arch)]
            spilled = sum(report.spilled_bytes for report in found.values())
            cells = [cell(found[arch]) if arch in found else "torch" for arch in archs]
            lines.append(f"| {case.name} | `{kernel}` | {' | '.join(cells)} | {spilled} |")
            print(lines[-1], flush=True)
    return lines, faults


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archs", nargs="*", help=f"some of {', '.join(TARGETS)}; default all, and the page is written")
    parser.add_argument("--all", action="store_true", help="every case; the page is not written")
    arguments = parser.parse_args(argv)
    archs = arguments.archs or list(TARGETS)
    lines, faults = rows(archs, (case for case in cases() if arguments.all or case.shown))
    if not arguments.archs and not arguments.all:
        table = [f"| case | kernel | {' | '.join(archs)} | spilled |", f"|---|---|{'---|' * len(archs)}---|", *lines]
        PAGE.write_text(HEADER.format(versions=versions(), served=served_by_torch()) + "\n".join(table) + "\n")
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
