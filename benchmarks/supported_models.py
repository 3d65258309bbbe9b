"""Writes docs/supported-models.md: every model family of the installed transformers, run and compared.

    python -m benchmarks.supported_models                            # all of them: hours
    python -m benchmarks.supported_models --families bert llama      # these; their rows replace those on the page
    python -m benchmarks.supported_models --part 1/4                 # every fourth family; parts may run at the same time
    python -m benchmarks.supported_models --verdicts unbuilt wrong   # those that the page calls so

The page is written after every family, so a run that is stopped loses nothing: ``--after NAME`` goes on behind the last one.
Nothing is downloaded: each family is built from a shrunken configuration with random weights.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.families.check import Outcome, check_family
from benchmarks.families.page import Table, locked, replace_text
from benchmarks.families.tiny import families
from benchmarks.families.without_torchvision import import_timm


def main(argv: Sequence[str] | None = None) -> int:
    """Run all families, or some, and write the page; 1 if a family is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", help="families to run; all by default")
    parser.add_argument("--part", default="1/1", help="I/N: every Nth family, from the Ith on")
    parser.add_argument("--after", default="", help="begin behind this family")
    parser.add_argument("--verdicts", nargs="+", default=[], help="only families to which the page gives one of these verdicts")
    parser.add_argument("--output", type=Path, default=Path("docs/supported-models.md"))
    args = parser.parse_args(argv)
    logging.disable(logging.ERROR)  # transformers warns of every special token that a small vocabulary does not hold
    torch.set_num_threads(1)
    import_timm()
    before = Table.read(args.output)
    bad = []
    for family in tqdm(_chosen(args, before), unit="family"):
        found = check_family(family, flex=True, half=True)
        with locked(args.output):
            table = Table.read(args.output)
            table.put(family, found)
            replace_text(args.output, table.page())
        bad += [f"{one.family} ({one.path}): {one.verdict}: {one.note}" for one in found if one.verdict in ("wrong", "crashed")]
        if family in lost({family: found}, before):
            bad.append(f"{family}: right before, not built any more")
    print("\n".join(bad))
    return 1 if bad else 0


def _chosen(args: argparse.Namespace, before: Table) -> list[str]:
    chosen = sorted(args.families or families())
    if args.verdicts:
        chosen = [family for family in chosen if before.verdicts(family) & set(args.verdicts)]
    first, _, step = args.part.partition("/")
    return [family for family in chosen[int(first) - 1 :: int(step)] if family > args.after]


def lost(outcomes: dict[str, list[Outcome]], before: Table) -> list[str]:
    """Families that the page called right before and that could not be built now."""
    return sorted(family for family, found in outcomes.items() if found[0].verdict == "unbuilt" and before.verdicts(family) == {"right"})


if __name__ == "__main__":
    raise SystemExit(main())
