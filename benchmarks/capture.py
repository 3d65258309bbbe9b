"""Cost of a capture beside the plain forward and beside the other tools, on this machine's CPU.

    python -m benchmarks.capture                 everything (about 20 minutes on 2 cores)
    python -m benchmarks.capture --quick         three cases, few pairs
    python -m benchmarks.capture --case NAME

Answers are checked before a time is reported. Times are ratios of alternating pairs in one process, reported as their median with the
20 % and 80 % quantiles; memory is the growth of the peak during one forward, one fresh process per provider.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import attviz
from benchmarks.capture_cases import CASES, PROVIDERS, Case, available, build, truth
from benchmarks.capture_share import steady, whole
from benchmarks.environment import environment

RESULTS = Path(__file__).parent / "results"


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def quantiles(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 5], statistics.median(ordered), ordered[-1 - len(ordered) // 5]


def paired(one: Callable[[], object], other: Callable[[], object], pairs: int) -> tuple[list[float], list[float]]:
    """Ratios other / one and the times of one, the order of each pair swapped."""
    for warm in (one, other):
        warm()
    ratios, times = [], []
    for index in range(pairs):
        if index % 2:
            second, first = seconds(other), seconds(one)
        else:
            first, second = seconds(one), seconds(other)
        ratios.append(second / first)
        times.append(first)
    return ratios, times


def time_rows(case: Case, pairs: int) -> list[dict[str, object]]:
    expected, reference = truth(case), build(case, "plain")
    rows = []
    for provider in PROVIDERS:
        if provider == "plain" or not available(provider) or not (case.dense or provider == "attviz"):
            continue
        run = build(case, provider)
        if expected is not None:
            torch.testing.assert_close(run(), expected, rtol=0, atol=1e-5)  # a fast wrong answer is no result
        slow = 1 if provider == "attviz" else 4
        ratios, times = paired(reference, run, max(2, pairs // slow))
        rows.append(row(case, provider, "forward", ratios, times))
    rows += steady_rows(case, pairs)
    return rows


def steady_rows(case: Case, pairs: int) -> list[dict[str, object]]:
    """As in a training loop: recorded forwards of an open context, those between samples of every=N, and those after its end.

    Blocks of forwards alternate: nothing of ours is in the process while the plain ones run.
    """
    model, inputs = case.model("sdpa"), case.inputs()
    block = max(1, min(20, pairs // 10))

    def forwards() -> float:
        return seconds(lambda: [model(**inputs) for _ in range(block)]) / block

    def recorded() -> float:
        with attviz.capture(model):
            model(**inputs)  # the first forward finds out which modules attend
            return forwards()

    def between() -> float:
        with attviz.capture(model, every=10**9):
            model(**inputs)
            return forwards()

    forwards()
    rows = []
    kinds = {"steady": recorded, "between samples": between, "after the context": forwards}
    for what, measure in kinds.items() if case.dense else [("steady", recorded)]:
        ratios, times = [], []
        for index in range(max(2, pairs // block)):
            first, second = (forwards(), measure()) if index % 2 else (measure(), forwards())[::-1]
            ratios.append(second / first)
            times.append(first)
        rows.append(row(case, "attviz", what, ratios, times))
    for what, share in (("own work: forward", whole), ("own work: steady", steady)):
        rows.append(row(case, "attviz", what, *share(model, inputs, max(3, pairs // 2))))
    return rows


def row(case: Case, provider: str, what: str, ratios: list[float], times: list[float]) -> dict[str, object]:
    p20, p50, p80 = quantiles(ratios)
    plain_ms = statistics.median(times) * 1e3
    extra_us = (p50 - 1) * plain_ms * 1e3 / case.num_layers
    return {
        "case": case.name,
        "provider": provider,
        "what": what,
        "ratio_p20": round(p20, 4),
        "ratio_p50": round(p50, 4),
        "ratio_p80": round(p80, 4),
        "pairs": len(ratios),
        "plain_ms": round(plain_ms, 3),
        "extra_us_per_attention": round(extra_us, 1),
        "extra_peak_bytes": "",
    }


def memory_rows(case: Case) -> list[dict[str, object]]:
    """Growth of the peak over the plain forward, each provider in a process of its own."""
    peaks = {name: _peak(case, name) for name in PROVIDERS if available(name) and (case.dense or name in ("plain", "attviz"))}
    rows = []
    for provider, peak in peaks.items():
        rows.append(
            {
                "case": case.name,
                "provider": provider,
                "what": "memory",
                "extra_peak_bytes": peak - (0 if provider == "plain" else peaks["plain"]),
            }
        )
    return rows


def _peak(case: Case, provider: str) -> int:
    """Median of three processes for the two that are compared to a megabyte: allocators round."""
    peaks = []
    for _ in range(3 if provider in ("plain", "attviz") and case.dense else 1):
        command = [sys.executable, "-m", "benchmarks.capture", "--peak", json.dumps([case.name, provider])]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return int(statistics.median(peaks))


def print_peak(case_name: str, provider: str) -> None:
    case = next(case for case in CASES if case.name == case_name)
    with torch.no_grad():
        run = build(case, provider)
        before = _status("VmRSS")
        run()
        print(_status("VmHWM") - before)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def write(rows: list[dict[str, object]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few pairs, without the long text")
    parser.add_argument("--case", choices=[case.name for case in CASES])
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "capture.csv")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.peak:
        print_peak(*json.loads(args.peak))
        return 0
    rows: list[dict[str, object]] = []
    conditions = environment()
    for case in CASES:
        if (args.case and case.name != args.case) or (args.quick and not case.dense):
            continue
        with torch.no_grad():
            found = time_rows(case, max(2, case.pairs // 6) if args.quick else case.pairs)
        found += [] if case.q_len < 100 else memory_rows(case)
        for entry in found:
            print({key: value for key, value in entry.items() if value != ""}, flush=True)
        rows += [{**entry, **conditions} for entry in found]
        write(rows, args.output)  # after each case, so that a run that is stopped has lost nothing
    print(f"written {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
