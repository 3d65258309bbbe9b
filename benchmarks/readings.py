"""What each reading costs beside the plain forward, and beside the other tools, on this machine's CPU.

    python -m benchmarks.readings            everything; goes on where it was stopped
    python -m benchmarks.readings --quick    the shorter text only, few pairs, no memory
    python -m benchmarks.readings --fresh    measures again what is in the file

Answers are compared with the weights of the model's own eager attention before a time is reported. Times are ratios of alternating pairs in
one process, the median with the 20 % and 80 % quantiles; memory is the growth of the peak during one forward of 1 x 16384 tokens, a fresh
process a reading. nnsight, TransformerLens, attnread and flash-colreduce take part where they are installed (docs/benchmarks.md says how).
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.capture import RESULTS, _status, paired, quantiles
from benchmarks.environment import environment
from benchmarks.reading_cases import CASES, LONG, READINGS, ReadingCase
from benchmarks.reading_rivals import RIVALS, available

_MEMORY = ("plain", "diagonal", "rows(-1)", "row_entropy", "received", "segments")
_STEADY = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # large blocks go back to the system at once: the peak differs less between two runs


@dataclass(frozen=True)
class Job:
    """One row of the price list."""

    case: str
    provider: str
    reading: str
    what: str

    @property
    def key(self) -> tuple[str, ...]:
        """What names it in the file."""
        return (self.case, self.provider, self.reading, self.what)


def jobs(quick: bool) -> list[Job]:
    """All rows, the cheap ones first."""
    cases = CASES[:1] if quick else CASES
    found = [Job(case.name, "attviz", name, "time") for case in cases for name in ("diagonal", *READINGS)]
    found += [Job(cases[0].name, rival, reading, "time") for rival, (reading, _) in RIVALS.items() if available(rival)]
    found += [Job(case.name, "torch", "attention alone", "time") for case in cases]
    return found if quick else found + [Job(LONG.name, "attviz", name, "memory") for name in _MEMORY]


def time_row(job: Job, case: ReadingCase, pairs: int) -> dict[str, object]:
    """Ratio to the plain forward."""
    with torch.no_grad():
        plain = case.runner("plain")
        if job.provider == "attviz":
            run: Callable[[], Any] = case.runner(job.reading)
            case.compare(job.reading, run())  # a fast wrong answer is no result
        elif job.provider == "torch":
            run = case.attention_alone()
        else:
            reading, make = RIVALS[job.provider]
            run = make(case)
            case.compare(reading, run())
            pairs = max(2, pairs // 3)
        ratios, times = paired(plain, run, pairs)
    low, middle, high = quantiles(ratios)
    return {
        "ratio_p20": round(low, 4),
        "ratio_p50": round(middle, 4),
        "ratio_p80": round(high, 4),
        "pairs": len(ratios),
        "plain_ms": round(sorted(times)[len(times) // 2] * 1e3, 2),
    }


def memory_row(job: Job) -> dict[str, object]:
    """Growth of the peak during one forward, the median of three processes of their own."""
    command, peaks = [sys.executable, "-m", "benchmarks.readings", "--peak", job.reading], []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **_STEADY})
        peaks.append(int(done.stdout.split()[-1]))
    return {"peak_bytes": sorted(peaks)[1]}


def print_peak(reading: str) -> None:
    """The growth, in bytes; the model and its input are there before."""
    with torch.no_grad():
        run = LONG.runner(reading)
        before = _status("VmRSS")
        run()
        print(_status("VmHWM") - before)


def known(path: Path, commit: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows of the file that were measured on this commit."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["commit"] == commit and not commit.endswith("-dirty")]
    return {tuple(row[name] for name in ("case", "provider", "reading", "what")): row for row in rows}


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The whole file; after each row, so that a run that is stopped has lost nothing."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str] | None = None) -> int:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the shorter text, few pairs, no memory")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the file")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "readings.csv")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.peak:
        print_peak(args.peak)
        return 0
    conditions = environment()  # before the first row: the file that is written makes the tree dirty
    if conditions["commit"].endswith("-dirty"):
        print("The tree holds changes that are not committed: the rows say so (-dirty), and the next run measures them again.")
    before = {} if args.fresh else known(args.output, conditions["commit"])
    cases = {case.name: case for case in CASES}
    rows: list[dict[str, Any]] = []
    for job in jobs(args.quick):
        row = before.get(job.key)
        if row is None:
            case = cases.get(job.case)
            found = memory_row(job) if case is None else time_row(job, case, case.pairs // 3 if args.quick else case.pairs)
            empty = dict.fromkeys(("ratio_p20", "ratio_p50", "ratio_p80", "pairs", "plain_ms", "peak_bytes"), "")
            named = {"case": job.case, "provider": job.provider, "reading": job.reading, "what": job.what}
            row = {**named, **empty, **found, **conditions}
            print(" ".join(str(value) for value in (*named.values(), *found.values())), flush=True)
        rows.append(row)
        write(rows, args.output)
    print(f"written {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
