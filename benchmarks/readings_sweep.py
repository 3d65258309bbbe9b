"""Writes docs/supported-readings.md: readings of every model family of the installed transformers, compared with a float64 reference.

    python -m benchmarks.readings_sweep [--only bert llama] [--output docs/supported-readings.md]

Nothing is downloaded: see ``benchmarks.supported_models``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from benchmarks.families.readings import NAMES, Read, read_family
from benchmarks.families.tiny import families
from benchmarks.families.without_torchvision import import_timm

_HEAD = """# Readings of the supported models

Written by `python -m benchmarks.readings_sweep` on the CPU, with torch {torch} and transformers {transformers}. Do not edit.

Every model family in the registry of transformers was built from a shrunken configuration with random weights, with padding in the second
text, and run under `attviz.capture(model, read=[Offset(-1), Rows(-1), RowEntropy(), Received()])`. The weights of each attention are worked
out again in float64 from what its operator was given, and each reading of each layer is compared with that matrix. The number is the
largest difference of any reading, layer and path.

- **{right} families give all four readings in every layer**, on every path that transformers offers them ({flex} of them on
  `flex_attention` too).
- {partly} families have layers that cannot give them, or no attention at all; each is listed with the reason.
- {wrong} families are wrong.
- {unbuilt} entries of the registry could not be built or fed; [supported models](supported-models.md) lists them.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run all families, or some, and write the page; 1 if a reading is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="families to run; all by default")
    parser.add_argument("--output", type=Path, default=Path("docs/supported-readings.md"))
    args = parser.parse_args(argv)
    logging.disable(logging.ERROR)  # transformers warns of every special token that a small vocabulary does not hold
    torch.set_num_threads(1)
    import_timm()
    found = {family: read_family(family, flex=True) for family in tqdm(args.only or families(), unit="family")}
    args.output.write_text(page(found), encoding="utf-8")
    wrong = [read for reads in found.values() for read in reads if read.verdict in ("wrong", "crashed")]
    for read in wrong:
        print(f"{read.family} ({read.path}): {read.verdict}: {read.note}")
    return 1 if wrong else 0


def page(found: dict[str, list[Read]]) -> str:
    """The whole page."""
    right = {family: reads for family, reads in found.items() if all(read.verdict == "right" for read in reads)}
    unbuilt = [family for family, reads in found.items() if reads[0].verdict == "unbuilt"]
    rest = {family: reads for family, reads in found.items() if family not in right and family not in unbuilt}
    wrong = sum(any(read.verdict in ("wrong", "crashed") for read in reads) for reads in rest.values())
    head = _HEAD.format(
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        right=len(right),
        flex=sum(any(read.path == "flex_attention" for read in reads) for reads in right.values()),
        partly=len(rest) - wrong,
        wrong=wrong,
        unbuilt=len(unbuilt),
    )
    table = "| family | layers | paths | " + " | ".join(f"`{name}`" for name in NAMES) + " |\n|---|---|---|" + "---|" * len(NAMES) + "\n"
    table += "".join(_row(family, reads) for family, reads in right.items())
    reasons = "\n## With a reason\n\n| family | path | layers | why |\n|---|---|---|---|\n"
    reasons += "".join(f"| {read.family} | {read.path} | {read.layers} | {_why(read)} |\n" for reads in rest.values() for read in reads)
    return head + table + reasons


def _row(family: str, reads: list[Read]) -> str:
    worst = [max(read.errors.get(name, 0.0) for read in reads) for name in NAMES]
    return f"| {family} | {reads[0].layers} | {', '.join(read.path for read in reads)} | " + " | ".join(f"{e:.0e}" for e in worst) + " |\n"


def _why(read: Read) -> str:
    reasons: dict[str, list[str]] = {}
    for place, why in read.reasons.items():
        reasons.setdefault(why, []).append(place.rpartition(": ")[0])
    told = [f"{why} ({len(set(layers))} of {read.layers} layers)" for why, layers in reasons.items()]
    text = "; ".join([read.note, *told] if read.note else told) or "right"
    return " ".join(text.replace("|", "\\|").split())[:240]


if __name__ == "__main__":
    raise SystemExit(main())
