"""Names of the shards of an archive: ``NAME.shard-00003`` or ``NAME.shard-00003-of-00008``, followed by ``.2`` after a restart."""

from __future__ import annotations

import os
import re
from pathlib import Path

PIECES = 1 << 24  # numbers of a text: its place in the data set times this, plus that of the piece
_SHARD = re.compile(r"\.shard-([0-9]{5}(?:-of-[0-9]{5})?(?:\.[0-9]{1,6})?)(\.part)?")


def shard_path(path: str | os.PathLike[str], label: str) -> Path:
    """Path of a shard of an archive.

    Example:
        >>> shard_path("run.attviz", "00003-of-00008").name
        'run.attviz.shard-00003-of-00008'
    """
    return Path(path).with_name(f"{Path(path).name}.shard-{label}")


def found_shards(path: Path) -> tuple[list[Path], list[Path]]:
    """The finished shards of an archive, and the parts of unfinished ones."""
    finished: list[Path] = []
    parts: list[Path] = []
    if not path.parent.is_dir():
        return finished, parts
    for entry in path.parent.iterdir():
        if entry.name.startswith(path.name) and (match := _SHARD.fullmatch(entry.name[len(path.name) :])):
            (parts if match[2] else finished).append(entry)
    return sorted(finished), sorted(parts)
