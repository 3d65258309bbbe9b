"""What a long benchmark has measured so far, one JSON object per line, so that a run that was stopped goes on where it stood."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

Row = dict[str, object]
_SAME = ("device", "torch", "triton", "commit", "driver")  # another of these: the old rows do not count


class Journal:
    """Rows by part and name, kept in a file while they are made.

    Args:
        path: The file; made anew where it is of another device, version or commit, or with ``fresh``.
        about: The environment of this run.
        fresh: Forget what was measured before.
    """

    def __init__(self, path: Path, about: dict[str, str], fresh: bool = False) -> None:
        self._path, self._known = path, {}
        head = {name: about.get(name, "") for name in _SAME}
        lines = [] if fresh or not path.exists() else path.read_text().splitlines()
        if lines and json.loads(lines[0]) == head:
            for line in lines[1:]:
                try:
                    part, name, rows = json.loads(line)
                except ValueError:
                    continue  # the line that was being written when the run was stopped
                self._known[part, name] = rows
        else:
            path.write_text(json.dumps(head) + "\n")

    def of(self, part: str, name: str, make: Iterable[Row]) -> Iterator[Row]:
        """The rows of a part, from before where they are known and complete; else made, and written down when the last is there."""
        if (part, name) in self._known:
            yield from self._known[part, name]
            return
        made = []
        for row in make:
            made.append(row)
            yield row
        if made and not any(str(row.get("note", "")).startswith(("not measured", "failed: ")) for row in made):
            with self._path.open("a") as file:
                file.write(json.dumps([part, name, made]) + "\n")
            self._known[part, name] = made
