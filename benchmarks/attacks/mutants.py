"""Mutated files: each ends in our error or reads right, within 10 seconds and 1 GB.

    python -m benchmarks.attacks.mutants [--budget 20000] [--seed 0] [--kind archive]

Mutants run under the kernel's limit on memory and a timer; a fault prints the mutant's number, which reproduces it.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.attacks.targets import KINDS

SECONDS, EXTRA_BYTES = 10, 1 << 30


class TooSlow(Exception):
    """A mutant took more than its time."""


def outcome(target: Any, number: int, seed: int) -> str:
    """What became of one mutant: 'refused', 'read', or the fault."""
    from attviz.errors import AttvizError

    dice = random.Random(f"{seed} {target.name} {number}")
    with tempfile.TemporaryDirectory() as folder:
        path = target.prepare(Path(folder), dice)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            target.read(path)
        except AttvizError:
            return "refused"
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def _too_slow(*_: object) -> None:
    raise TooSlow(f"more than {SECONDS} s")


def run(budget: int, seed: int = 0, kinds: tuple[str, ...] = ()) -> tuple[Counter[str], list[str]]:
    """Try so many mutants, in turn of every kind; counts of outcomes and the faults."""
    import warnings

    import attviz.io
    import attviz.viewer  # noqa: F401  # imported before memory is limited

    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    faults: list[str] = []
    chosen = [kind for kind in KINDS if not kinds or kind.name in kinds]  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        before = signal.signal(signal.SIGALRM, _too_slow)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        try:
            targets = []
            for kind in chosen:
                place = Path(folder) / kind.name  # type: ignore[attr-defined]
                place.mkdir()
                targets.append(kind(place))
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES, limits[1]))
            for number in range(budget):
                target = targets[number % len(targets)]
                result = outcome(target, number, seed)
                if result in ("read", "refused"):
                    counts[f"{target.name}: {result}"] += 1
                else:
                    faults.append(f"{target.name} {number} (seed {seed}): {result}")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
            signal.signal(signal.SIGALRM, before)
    return counts, faults


def main() -> int:
    """Run and print; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", default=[], choices=[kind.name for kind in KINDS])  # type: ignore[attr-defined]
    args = parser.parse_args()
    counts, faults = run(args.budget, args.seed, tuple(args.kind))
    print("\n".join(faults))
    print("\n".join(f"{name:<24}{count:>8}" for name, count in sorted(counts.items())))
    print(f"{len(faults)} faults of {args.budget} mutants")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
