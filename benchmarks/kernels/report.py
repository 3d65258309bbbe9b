"""Write docs/kernels.md: what every kernel takes of each architecture, compiled ahead of time. Needs no GPU.

python -m benchmarks.kernels.report            # all architectures, some minutes
python -m benchmarks.kernels.report sm_90      # prints one, writes nothing
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import triton

from benchmarks.kernels.cases import cases
from benchmarks.kernels.compile import TARGETS, Report, compile_launch

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
HEADER = """# Kernels, compiled ahead of time

Written by `python -m benchmarks.kernels.report` with {versions}, on a machine without a GPU: these are the binaries'
own numbers, not timings. A cell reads registers / shared memory in KiB / matrix instructions / vector loads : scalar loads; registers are
those of a thread, instructions are counted in the program text, not in what runs. Spilled is what the assembler could not keep in
registers, in bytes of stack (scratch on gfx942), over all architectures; the script fails unless it is 0.
The tests compile all of it again on every run, and compare with this table where the same versions are installed.

"""


def cell(report: Report) -> str:
    """One report in a table cell."""
    loads = f"{report.vector_loads}:{report.scalar_loads}"
    return f"{report.registers} / {report.shared_bytes / 1024:.0f} / {report.matrix} / {loads}"


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


def rows(archs: list[str]) -> tuple[list[str], list[str]]:
    """Table rows of all cases on the architectures, and the promises broken."""
    lines, faults = [], []
    for case in cases():
        reports = {arch: compile_launch(case.launch, arch) for arch in archs}
        for kernel in reports[archs[0]]:
            found = [reports[arch][kernel] for arch in archs]
            faults += [fault for arch in archs for fault in case.faults(kernel, reports[arch][kernel], arch)]
            spilled = sum(report.spilled_bytes for report in found)
            lines.append(f"| {case.name} | `{kernel}` | {' | '.join(map(cell, found))} | {spilled} |")
            print(lines[-1], flush=True)
    return lines, faults


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archs", nargs="*", help=f"some of {', '.join(TARGETS)}; default all, and the page is written")
    chosen = parser.parse_args(argv).archs
    archs = chosen or list(TARGETS)
    lines, faults = rows(archs)
    if not chosen:
        table = [f"| case | kernel | {' | '.join(archs)} | spilled |", f"|---|---|{'---|' * len(archs)}---|", *lines]
        PAGE.write_text(HEADER.format(versions=versions()) + "\n".join(table) + "\n")
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
