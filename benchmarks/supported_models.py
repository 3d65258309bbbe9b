"""Writes docs/supported-models.md: every model family of the installed transformers, run and compared.

    python -m benchmarks.supported_models [--only bert llama] [--output docs/supported-models.md]

Nothing is downloaded: each family is built from a shrunken configuration with random weights. The numbers are the largest difference to the
model's own eager forward in float64 (float32 where the model cannot run in float64).
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from benchmarks.families.check import Outcome, check_family
from benchmarks.families.tiny import families

_HEAD = """# Supported models

Written by `python -m benchmarks.supported_models` on the CPU, with torch {torch} and transformers {transformers}. Do not edit.

Every model family in the registry of transformers was built from a shrunken configuration with random weights (two layers, or one of
each kind, and padding in the second text), run under `attviz.capture` with `sdpa` and with `eager` attention, and compared with the
softmaxes of its own eager forward in float64 (float32 where the model cannot run in float64), layer by layer and head by head. The
number is the largest difference of a weight; up to {tolerance:.0e} counts as right. The column `flex` is `flex_attention`, uncompiled, for
the families that transformers runs with it on the CPU.

- **{both} families are right on both paths**, {one} more on the one path they have (transformers offers them no `sdpa`).
- {flex} families are right with `flex_attention` as well.
- {refused} families have no attention matrix, or one that cannot be read: the capture refuses them or skips their layers, and says why.
- {unbuilt} entries of the registry could not be built or fed by the generic rules (towers that need the inputs of another model, libraries
  that are not installed). That says nothing about the capture; they are listed at the end.

"""
_TOLERANCE = 1e-5


def main(argv: Sequence[str] | None = None) -> int:
    """Run all families, or some, and write the page; 1 if a family is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="families to run; all by default")
    parser.add_argument("--output", type=Path, default=Path("docs/supported-models.md"))
    args = parser.parse_args(argv)
    logging.disable(logging.ERROR)  # transformers warns of every special token that a small vocabulary does not hold
    torch.set_num_threads(1)
    outcomes = {family: check_family(family, flex=True) for family in tqdm(args.only or families(), unit="family")}
    args.output.write_text(page(outcomes), encoding="utf-8")
    wrong = [outcome for found in outcomes.values() for outcome in found if outcome.verdict in ("wrong", "crashed")]
    for outcome in wrong:
        print(f"{outcome.family} ({outcome.path}): {outcome.verdict}: {outcome.note}")
    return 1 if wrong else 0


def page(outcomes: dict[str, list[Outcome]]) -> str:
    """The whole page."""
    right = {family: found for family, found in outcomes.items() if all(outcome.verdict == "right" for outcome in found)}
    paths = {family: {outcome.path for outcome in found} for family, found in right.items()}
    both = sum({"sdpa", "eager"} <= found for found in paths.values())
    unbuilt = {family: found[0] for family, found in outcomes.items() if found[0].verdict == "unbuilt"}
    rest = {family: found for family, found in outcomes.items() if family not in right and family not in unbuilt}
    head = _HEAD.format(
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        tolerance=_TOLERANCE,
        both=both,
        one=len(right) - both,
        flex=sum("flex_attention" in found for found in paths.values()),
        refused=len(rest),
        unbuilt=len(unbuilt),
    )
    table = "| family | layers | sdpa | eager | flex | skipped, notes |\n|---|---|---|---|---|---|\n" + "".join(
        _row(*item) for item in right.items()
    )
    refused = "\n## Refused or skipped\n\n| family | path | verdict | why |\n|---|---|---|---|\n" + "".join(
        f"| {outcome.family} | {outcome.path} | {outcome.verdict} | {_cell(_why(outcome))} |\n"
        for found in rest.values()
        for outcome in found
    )
    failed = "\n## Not built by the generic rules\n\n" + "".join(
        f"- {family}: {_cell(outcome.note)}\n" for family, outcome in unbuilt.items()
    )
    return head + table + refused + failed


def _row(family: str, found: list[Outcome]) -> str:
    errors = {outcome.path: f"{outcome.error:.0e}" for outcome in found}
    notes = {outcome.note for outcome in found if outcome.note} | {f"skipped: {_short(why)}" for why in found[0].skipped.values()}
    columns = " | ".join(errors.get(path, "-") for path in ("sdpa", "eager", "flex_attention"))
    return f"| {family} | {found[0].layers} | {columns} | {_cell('; '.join(sorted(notes)))} |\n"


def _why(outcome: Outcome) -> str:
    _, found, why = outcome.note.partition("Why: ")
    return why.split(".   Cure:")[0].split(".  Cure:")[0] if found else outcome.note


def _short(reason: str) -> str:
    return reason.split(":")[0].split(" and no cache")[0]


def _cell(text: str) -> str:
    text = re.sub(r" from '/[^']*'", "", text)  # where a package lies on the machine that ran this
    return " ".join(re.sub(r" from '/.*", "", text).replace("|", "\\|").split())[:160]


if __name__ == "__main__":
    raise SystemExit(main())
