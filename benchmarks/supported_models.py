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
from benchmarks.families.without_torchvision import import_timm

_HEAD = """# Supported models

Written by `python -m benchmarks.supported_models` on the CPU, with torch {torch} and transformers {transformers}. Do not edit.

Every model family in the registry of transformers was built from a shrunken configuration with random weights (two layers, or one of
each kind, and padding in the second text) and put through `attviz.check`: each attention operator is worked out again in float64 from the
arguments it was given, and one token of each layer's input is disturbed to see which row and which key are its own. A family is right on
a path if *every* attention of its forward has a right record, or is shown to have no own key. The number is the largest difference of a
weight. `flex` is `flex_attention`, uncompiled, for the families that transformers runs with it on the CPU; `bfloat16` is the first path
in that type.

- **{both} families are right with `sdpa` and with `eager`**, {one} more on the one path they have (transformers offers them no `sdpa`).
- {flex} families are right with `flex_attention` as well, {half} in bfloat16.
- {refused} families have no attention matrix, or one that cannot be read, or are not settled: each with the reason.
- {unbuilt} entries of the registry could not be built or fed; that says nothing about the capture. They are listed at the end.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run all families, or some, and write the page; 1 if a family is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="families to run; all by default")
    parser.add_argument("--output", type=Path, default=Path("docs/supported-models.md"))
    args = parser.parse_args(argv)
    logging.disable(logging.ERROR)  # transformers warns of every special token that a small vocabulary does not hold
    torch.set_num_threads(1)
    import_timm()
    before = args.output.read_text(encoding="utf-8") if args.output.exists() else ""
    outcomes = {family: check_family(family, flex=True, half=True) for family in tqdm(args.only or families(), unit="family")}
    args.output.write_text(page(outcomes), encoding="utf-8")
    wrong = [outcome for found in outcomes.values() for outcome in found if outcome.verdict in ("wrong", "crashed")]
    for outcome in wrong:
        print(f"{outcome.family} ({outcome.path}): {outcome.verdict}: {outcome.note}")
    gone = lost(outcomes, before)
    if gone:
        print(f"right before, not built any more: {', '.join(gone)}")
    return 1 if wrong or gone else 0


def right_in(page: str) -> set[str]:
    """Families that a page calls right."""
    return set(re.findall(r"^\| ([\w.-]+) \|", page.partition("| family | layers |")[2].partition("\n## ")[0], re.MULTILINE))


def lost(outcomes: dict[str, list[Outcome]], before: str) -> list[str]:
    """Families that the page of ``before`` calls right and that could not be built now."""
    return sorted(family for family in right_in(before) & set(outcomes) if outcomes[family][0].verdict == "unbuilt")


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
        both=both,
        one=len(right) - both,
        flex=sum("flex_attention" in found for found in paths.values()),
        half=sum(any(path.endswith("bfloat16") for path in found) for found in paths.values()),
        refused=len(rest),
        unbuilt=len(unbuilt),
    )
    table = "| family | layers | sdpa | eager | flex | bfloat16 | without an own key |\n|---|---|---|---|---|---|---|\n" + "".join(
        _row(*item) for item in right.items()
    )
    refused = "\n## Refused, skipped or not settled\n\n| family | path | verdict | why |\n|---|---|---|---|\n" + "".join(
        f"| {outcome.family} | {outcome.path} | {outcome.verdict} | {_cell(_why(outcome))} |\n"
        for found in rest.values()
        for outcome in found
    )
    failed = "\n## Not built\n\n" + "".join(f"- {family}: {_cell(outcome.note)}\n" for family, outcome in unbuilt.items())
    return head + table + refused + failed


def _row(family: str, found: list[Outcome]) -> str:
    errors = {outcome.path: f"{outcome.error:.0e}" for outcome in found}
    half = next((outcome.path for outcome in found if outcome.path.endswith("bfloat16")), "")
    notes = {_short(why) for why in found[0].skipped.values()}
    columns = " | ".join(errors.get(path, "-") for path in ("sdpa", "eager", "flex_attention", half))
    return f"| {family} | {len(found[0].recorded)} | {columns} | {_cell('; '.join(sorted(notes)))} |\n"


def _why(outcome: Outcome) -> str:
    _, found, why = outcome.note.partition("Why: ")
    return why.split(".   Cure:")[0].split(".  Cure:")[0] if found else outcome.note


def _short(reason: str) -> str:
    return reason.removeprefix("no own key: ").removeprefix("no softmax ran in it: ").split(":")[0].split(" and no cache")[0]


def _cell(text: str) -> str:
    text = re.sub(r" from '/[^']*'", "", text)  # where a package lies on the machine that ran this
    return " ".join(re.sub(r" from '/.*", "", text).replace("|", "\\|").split())[:160]


if __name__ == "__main__":
    raise SystemExit(main())
