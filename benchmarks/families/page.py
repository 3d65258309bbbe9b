"""docs/supported-models.md as a table that single rows can be put into: the page itself is the only store."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from attviz.files.atomic import replacing_text
from benchmarks.families.check import Outcome

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

Other libraries have tables of their own: [timm](timm-models.md), [diffusers](diffusers-models.md). What can be read of each family here:
[readings](supported-readings.md).

"""
_RIGHT = "| family | layers | sdpa | eager | flex | bfloat16 | without an own key |\n|---|---|---|---|---|---|---|\n"
_REST = "\n## Refused, skipped or not settled\n\n| family | path | verdict | why |\n|---|---|---|---|\n"
_UNBUILT = "\n## Not built\n\n"


@dataclass
class Table:
    """The rows of the page, by family.

    Attributes:
        right: ``layers, sdpa, eager, flex, bfloat16, notes`` of each family that is right on all its paths.
        rest: ``path, verdict, why`` of each path of a family that is not.
        unbuilt: Why it is not built.
    """

    right: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rest: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    unbuilt: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Table:
        """What a page says; an empty table where there is none."""
        table = cls()
        if not path.exists():
            return table
        top, _, bottom = path.read_text(encoding="utf-8").partition(_REST)
        rows, _, listed = bottom.partition(_UNBUILT)
        for family, *cells in map(_cells, top.partition(_RIGHT)[2].splitlines()):
            table.right[family] = tuple(cells)
        for family, *cells in map(_cells, rows.splitlines()):
            table.rest.setdefault(family, []).append(tuple(cells))
        for line in listed.splitlines():
            family, _, why = line.removeprefix("- ").partition(": ")
            table.unbuilt[family] = why
        return table

    def put(self, family: str, found: list[Outcome]) -> None:
        """The rows of a family, instead of those it had."""
        for rows in (self.right, self.rest, self.unbuilt):
            rows.pop(family, None)  # type: ignore[attr-defined]
        if found[0].verdict == "unbuilt":
            self.unbuilt[family] = _cell(found[0].note)
        elif all(outcome.verdict == "right" for outcome in found):
            self.right[family] = _right_cells(found)
        else:
            self.rest[family] = [(outcome.path, outcome.verdict, _cell(outcome.note)) for outcome in found]

    def verdicts(self, family: str) -> set[str]:
        """What the page says of a family; several where its paths differ."""
        if family in self.right:
            return {"right"}
        return {"unbuilt"} if family in self.unbuilt else {cells[1] for cells in self.rest.get(family, [])}

    def page(self) -> str:
        """The whole page."""
        paths = self.right.values()
        both = sum("-" not in cells[1:3] for cells in paths)
        head = _HEAD.format(
            torch=torch.__version__.split("+")[0], transformers=transformers.__version__, both=both, one=len(paths) - both,
            flex=sum(cells[3] != "-" for cells in paths), half=sum(cells[4] != "-" for cells in paths), refused=len(self.rest),
            unbuilt=len(self.unbuilt),
        )  # fmt: skip
        right = "".join(row_of(family, *self.right[family]) for family in sorted(self.right))
        rest = "".join(row_of(family, *cells) for family in sorted(self.rest) for cells in self.rest[family])
        unbuilt = "".join(f"- {family}: {self.unbuilt[family]}\n" for family in sorted(self.unbuilt))
        return head + _RIGHT + right + _REST + rest + _UNBUILT + unbuilt


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else reads and writes the page meanwhile: parts of a sweep may run at the same time."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def replace_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    with replacing_text(path) as file:
        file.write(text)


def row_of(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |\n"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _right_cells(found: list[Outcome]) -> tuple[str, ...]:
    errors = {outcome.path: f"{outcome.error:.0e}" for outcome in found}
    half = next((outcome.path for outcome in found if outcome.path.endswith("bfloat16")), "")
    notes = {_short(why) for why in found[0].skipped.values()}
    columns = (errors.get(path, "-") for path in ("sdpa", "eager", "flex_attention", half))
    return (str(len(found[0].recorded)), *columns, _cell("; ".join(sorted(notes))))


def _short(reason: str) -> str:
    return reason.removeprefix("no own key: ").removeprefix("no softmax ran in it: ").split(":")[0].split(" and no cache")[0]


def _cell(text: str) -> str:
    text = re.sub(r" from '/[^']*'", "", text)  # where a package lies on the machine that ran this
    return " ".join(re.sub(r" from '/.*", "", text).replace("|", "\\|").split())[:160].strip()
