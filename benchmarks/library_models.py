"""Writes docs/timm-models.md and docs/diffusers-models.md: the attention of these libraries, run and compared.

    python -m benchmarks.library_models timm [--models swin hiera]       # rows of these replace those on the page
    python -m benchmarks.library_models diffusers

Both are installed without their dependencies, which would replace the CPU build of torch: ``pip install --no-deps timm diffusers``.
Nothing is downloaded: every model is built small, with random weights.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.families.check import Outcome
from benchmarks.families.page import locked, replace_text, row_of
from benchmarks.families.without_torchvision import import_timm

_HEAD = """# Models of {library}

Written by `python -m benchmarks.library_models {library}` on the CPU, with torch {torch} and {library} {version}. Do not edit.

{what} Each was built small, with random weights, and put through `attviz.check`: each attention operator is worked out again in float64
from the arguments it was given, and one token of each layer's input is disturbed to see which row and which key are its own. A model is
right if *every* attention of its forward has a right record, or is shown to have no own key. torchvision was not installed; while timm is
imported, empty modules stand in for it.

- **{right} of {all} models are right on every path**{none}.
- The rest is said aloud, or not settled: each with the reason.
{missing}
| model | path | attentions | largest error | verdict | without an own key, or why not |
|---|---|---|---|---|---|
"""
_WHAT = {
    "timm": "One model or more of each file of timm that runs attention; several where a file has several kinds. `fused` is SDPA, "
    "`plain` the softmax that timm writes out itself; a model without a choice has one row.",
    "diffusers": "Transformers, U-Nets and video models of diffusers, with the attention that diffusers gives them by default.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run all models of a library, or some, and write its page; 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=sorted(_WHAT))
    parser.add_argument("--models", nargs="+", help="models to run; all by default")
    parser.add_argument("--after", default="", help="begin behind this model")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    output = args.output or Path(f"docs/{args.library}-models.md")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    import_timm()
    models = importlib.import_module(f"benchmarks.families.{args.library}_models")
    bad = [f"{file}.py runs attention, and no model of it is listed" for file in getattr(models, "files_without_a_model", list)()]
    for name in tqdm([name for name in sorted(args.models or models.MODELS) if name > args.after], unit="model"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = models.check_model(name)
        with locked(output):
            rows = read(output)
            rows[name] = [_cells(outcome) for outcome in found]
            replace_text(output, page(args.library, rows))
        bad += [f"{name} ({one.path}): {one.verdict}: {one.note}" for one in found if one.verdict in ("wrong", "crashed", "unbuilt")]
    print("\n".join(bad))
    return 1 if bad else 0


def read(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """The rows of a page, by model."""
    rows: dict[str, list[tuple[str, ...]]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").partition("|---|---|---|---|---|---|\n")[2].splitlines():
            name, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            rows.setdefault(name, []).append(tuple(cells))
    return rows


def page(library: str, rows: dict[str, list[tuple[str, ...]]]) -> str:
    """The whole page."""
    verdicts = [{cells[3] for cells in found} for found in rows.values()]
    missing = sorted(set(importlib.import_module(f"benchmarks.families.{library}_models").MODELS) - set(rows))
    none = sum(found == {"none"} for found in verdicts)
    head = _HEAD.format(
        library=library, torch=torch.__version__.split("+")[0], version=importlib.import_module(library).__version__, what=_WHAT[library],
        right=sum(found == {"right"} for found in verdicts), all=len(rows),
        none=f"; {none} more have no attention with an own key" if none else "",
        missing=f"- Not run yet: {', '.join(missing)}.\n" if missing else "",
    )  # fmt: skip
    return head + "".join(row_of(name, *cells) for name in sorted(rows) for cells in rows[name])


def _cells(outcome: Outcome) -> tuple[str, ...]:
    error = "-" if outcome.error != outcome.error else f"{outcome.error:.0e}"
    why = outcome.note or "; ".join(sorted({reason.removeprefix("no own key: ").split(":")[0] for reason in outcome.skipped.values()}))
    return outcome.path, str(len(outcome.recorded)), error, outcome.verdict, " ".join(why.replace("|", "\\|").split())[:200].strip()


if __name__ == "__main__":
    raise SystemExit(main())
