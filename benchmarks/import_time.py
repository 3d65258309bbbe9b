"""How long ``import attviz`` takes once torch is imported: one CSV row per process.

    python -m benchmarks.import_time > benchmarks/results/import_time.csv

Each process imports torch first, then attviz, and reports the seconds of the second import (wall and CPU). The first process warms the
file cache and is not reported.
"""

from __future__ import annotations

import csv
import subprocess
import sys

from benchmarks.environment import environment

SCRIPT = """
import time
started = time.perf_counter()
import torch
before, cpu = time.perf_counter(), time.process_time()
modules = len(__import__("sys").modules)
import attviz
print(before - started, time.perf_counter() - before, time.process_time() - cpu, len(__import__("sys").modules) - modules)
"""


def measure() -> dict[str, float]:
    """Import in a fresh process."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    torch, wall, cpu, modules = map(float, done.stdout.split())
    return {"torch_s": round(torch, 4), "attviz_s": round(wall, 4), "attviz_cpu_s": round(cpu, 4), "modules": int(modules)}


def main(processes: int = 11) -> None:
    """Write the CSV to stdout."""
    where = environment()
    measure()
    writer = csv.DictWriter(sys.stdout, ["torch_s", "attviz_s", "attviz_cpu_s", "modules", *where])
    writer.writeheader()
    for _ in range(processes):
        writer.writerow(measure() | where)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
