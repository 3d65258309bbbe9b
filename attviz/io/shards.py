"""One analysis made by several processes: each writes a shard, a finished archive of its own; together they open, or are merged, as one.

A shard is ``NAME.shard-00003-of-00008``. That it is there says that it is complete: an archive appears when it is whole. Beside what every
archive holds it has ``numbers``, the place of each document in the data set.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from attviz.errors import ArgumentError, FormatError
from attviz.files import check_output
from attviz.io.archive import ArchiveDocuments
from attviz.io.partial import PartialArchive
from attviz.records import Analysis, Document

_SHARD = re.compile(r"\.shard-([0-9]{5})-of-([0-9]{5})")
_BATCH = 64


def shard_path(path: str | os.PathLike[str], index: int, count: int) -> Path:
    """Where a shard of an archive stands.

    Example:
        >>> shard_path("run.attviz", 3, 8).name
        'run.attviz.shard-00003-of-00008'
    """
    return Path(path).with_name(f"{Path(path).name}.shard-{index:05d}-of-{count:05d}")


def has_shards(path: str | os.PathLike[str]) -> bool:
    """Whether shards of this archive are there, complete or not."""
    return bool(_found(Path(path)))


def open_shards(path: str | os.PathLike[str]) -> Analysis:
    """The shards of an archive as one analysis, in the order of the data set; documents are read when they are asked for.

    Raises:
        FormatError: If a shard is missing (they are named), or they are not of one run.
        FileNotFoundError: If there is none.
    """
    documents = ShardedDocuments(_complete(Path(path)))
    first = documents.shards[0].metadata
    names = first["label_names"]
    return Analysis(
        layers=documents.layers,
        documents=documents,
        label_names=None if names is None else tuple(names),
        model_name=first["model_name"],
        settings=documents.settings,
    )


def merge(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Join the shards of an archive into it, in memory that does not grow with their documents but for three numbers each.

    The result is, byte for byte, the archive that one process would have written. The shards stay.

    Raises:
        FormatError: If a shard is missing, or they are not of one run.
        ArgumentError: If the archive is there and ``overwrite`` is False.
        OSError: If it cannot be written.
    """
    check_output(path, overwrite=overwrite)
    analysis = open_shards(path)
    documents = analysis.documents
    assert isinstance(documents, ShardedDocuments)
    with PartialArchive(path, {"precision": documents.precision}, resumable=False, overwrite=overwrite) as growing:
        for start in range(0, max(1, len(documents)), _BATCH):
            growing.append(list(enumerate(documents[start : start + _BATCH], start)), analysis.layers)
        growing.finish(
            layers=analysis.layers, label_names=analysis.label_names, model_name=analysis.model_name, settings=dict(analysis.settings)
        )
    return Path(path)


class ShardedDocuments(Sequence[Document]):
    """The documents of all shards in the order of the data set."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.shards = [ArchiveDocuments(path) for path in paths]
        self.settings = _joined_settings(self.shards)
        full = next((shard for shard in self.shards if shard.layers), self.shards[0])
        self.layers, self._num_heads = full.layers, full.file.tensors["diagonal"].shape[2]
        self.precision = "float16" if full.file.tensors["diagonal"].kind == "F16" else "float32"
        numbers = np.concatenate([_numbers(shard) for shard in self.shards])
        shard = np.repeat(np.arange(len(self.shards)), [len(one) for one in self.shards])
        place = np.concatenate([np.arange(len(one)) for one in self.shards])
        order = np.argsort(numbers, kind="stable")
        if len(numbers) > 1 and (np.diff(numbers[order]) == 0).any():
            raise FormatError(f"{paths[0]} and its like hold a document twice: they are not of one run.")
        self._shard, self._place = shard[order], place[order]

    def __len__(self) -> int:
        return len(self._place)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self._read(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[Document]:
        return (self._read(number) for number in range(len(self)))

    def _read(self, number: int) -> Document:
        document = self.shards[int(self._shard[number])][int(self._place[number])]
        shape = (len(self.layers), self._num_heads)
        if document.diagonal.shape[:2] == shape or document.tokens:
            return document
        from dataclasses import replace

        return replace(document, diagonal=np.zeros((*shape, 0), dtype=document.diagonal.dtype))  # of a shard with empty texts alone


def _found(path: Path) -> dict[int, dict[int, Path]]:
    """Shards by how many there should be, and by index."""
    found: dict[int, dict[int, Path]] = {}
    if not path.parent.is_dir():
        return found
    for entry in path.parent.iterdir():
        if entry.name.startswith(path.name) and (match := _SHARD.fullmatch(entry.name[len(path.name) :])):
            found.setdefault(int(match[2]), {})[int(match[1])] = entry
    return found


def _complete(path: Path) -> list[Path]:
    found = _found(path)
    if not found:
        raise FileNotFoundError(
            f"{path}: no shards of this archive are there. `attviz analyze MODEL DATA -o {path} --shard 0/4` makes one."
        )
    if len(found) > 1:
        raise FormatError(f"{path}: there are shards of {' and of '.join(map(str, sorted(found)))}. Remove those of the other run.")
    ((count, shards),) = found.items()
    missing = [index for index in range(count) if index not in shards]
    if missing:
        shown = ", ".join(f"{index}/{count}" for index in missing[:8]) + (" ..." if len(missing) > 8 else "")
        raise FormatError(f"{path}: {len(missing)} of {count} shards are not finished: {shown}. Run them (again) with --shard.")
    return [shards[index] for index in range(count)]


def _numbers(shard: ArchiveDocuments) -> np.ndarray:
    table = shard.file.tensors.get("numbers")
    if table is None or table.shape != (len(shard),) or table.kind != "I64":
        raise FormatError(f"{shard.path}: is an archive, but not a shard: it has no numbers.")
    return shard.file.rows("numbers", 0, len(shard))


def _joined_settings(shards: Sequence[ArchiveDocuments]) -> dict[str, str]:
    """The settings of the run: those that all shards share, and what they counted."""
    tables: list[dict[str, Any]] = [dict(shard.metadata["settings"]) for shard in shards]
    counts = [json.loads(table.pop("data", "{}")) for table in tables]
    for shard, table in zip(shards, tables, strict=True):
        table.pop("shard", None)
        other = sorted(name for name in {*tables[0], *table} if tables[0].get(name) != table.get(name))
        if other:
            raise FormatError(f"{shard.path}: another run than {shards[0].path.name} made it ({', '.join(other)} differ). Make it again.")
    told = dict(counts[0])
    for name in ("truncated", "lost_tokens"):  # each counts its own; texts, empty and repeated ones are counted by all
        told[name] = sum(int(count.get(name, 0)) for count in counts)
    return tables[0] | {"data": json.dumps(told)}


def check_shard(index: int, count: int) -> None:
    """Refuse a share that does not exist.

    Raises:
        ArgumentError: If it is not 0 <= index < count <= 99999.
    """
    if not 0 <= index < count <= 99_999:
        raise ArgumentError(f"shard must be (index, count) with 0 <= index < count <= 99999, got ({index}, {count}).")
