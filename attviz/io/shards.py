"""One analysis made by several processes: each writes a shard, a finished archive of its own; together they open, or are merged, as one.

A shard is ``NAME.shard-00003-of-00008``. That it is there says that it is complete: an archive appears when it is whole. Beside what every
archive holds it has ``numbers``, the place of each document in the data set.
"""

from __future__ import annotations

import heapq
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from attviz.errors import ArgumentError, FormatError
from attviz.files import check_output
from attviz.io.archive import ArchiveDocuments
from attviz.io.partial import PartialArchive
from attviz.records import Analysis, Document

_SHARD = re.compile(r"\.shard-([0-9]{5})-of-([0-9]{5})")
_BATCH, _CHUNK = 64, 8192


def shard_path(path: str | os.PathLike[str], index: int, count: int) -> Path:
    """Path of a shard of an archive.

    Example:
        >>> shard_path("run.attviz", 3, 8).name
        'run.attviz.shard-00003-of-00008'
    """
    return Path(path).with_name(f"{Path(path).name}.shard-{index:05d}-of-{count:05d}")


def has_shards(path: str | os.PathLike[str]) -> bool:
    """Whether shards of this archive exist, complete or not."""
    return bool(_found(Path(path)))


def open_shards(path: str | os.PathLike[str]) -> Analysis:
    """The shards of an archive as one analysis, in the order of the data set. Documents are read on demand.

    Raises:
        FormatError: If shards are missing (the message names them), or they are not from one run.
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
    """Join the shards of an archive into one file, in memory that grows by three numbers per document only.

    The result is byte for byte the archive that one process would have written. The shards are kept.

    Raises:
        FormatError: If a shard is missing, or they are not from one run.
        ArgumentError: If the archive exists and ``overwrite`` is False.
        OSError: If it cannot be written.
    """
    check_output(path, overwrite=overwrite)
    analysis = open_shards(path)
    documents = analysis.documents
    assert isinstance(documents, ShardedDocuments)
    with PartialArchive(path, {"precision": documents.precision}, resumable=False, overwrite=overwrite) as growing:
        waiting = enumerate(documents)
        while batch := list(islice(waiting, _BATCH)):
            growing.append(batch, analysis.layers)
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
        for shard in self.shards:
            _check_numbers(shard)

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

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
        """All in order, without the table that reading them at random takes."""
        before = -1
        for number, shard, place in heapq.merge(*(_numbered(one, index) for index, one in enumerate(self.shards))):
            if number <= before:
                raise FormatError(f"{self.shards[shard].path}: document {place} is out of order, or in two shards. Recreate the shards.")
            before = number
            yield self._document(shard, place)

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Shard and place of every document; made when the first is read at random."""
        numbers = np.concatenate([shard.file.rows("numbers", 0, len(shard)) for shard in self.shards])
        ends = np.cumsum([len(shard) for shard in self.shards])
        order = np.argsort(numbers, kind="stable")
        if (np.diff(numbers[order]) == 0).any():
            raise FormatError(f"{self.shards[0].path} and the like contain a document twice, so they are not from one run. Recreate them.")
        shard = np.searchsorted(ends, order, side="right")
        return shard, order - np.concatenate([[0], ends])[shard]

    def _read(self, number: int) -> Document:
        shard, place = self._order
        return self._document(int(shard[number]), int(place[number]))

    def _document(self, shard: int, place: int) -> Document:
        document = self.shards[shard][place]
        shape = (len(self.layers), self._num_heads)
        if document.diagonal.shape[:2] == shape or document.tokens:
            return document
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
            f"{path}: there are no shards of this archive. `attviz analyze MODEL DATA -o {path} --shard 0/4` makes one."
        )
    if len(found) > 1:
        raise FormatError(f"{path}: there are shards of {' and of '.join(map(str, sorted(found)))}. Remove those of the other run.")
    ((count, shards),) = found.items()
    missing = [index for index in range(count) if index not in shards]
    if missing:
        shown = ", ".join(f"{index}/{count}" for index in missing[:8]) + (" ..." if len(missing) > 8 else "")
        raise FormatError(f"{path}: {len(missing)} of {count} shards are not finished: {shown}. Run them (again) with --shard.")
    return [shards[index] for index in range(count)]


def _numbered(shard: ArchiveDocuments, index: int) -> Iterator[tuple[int, int, int]]:
    """(number in the data set, index, place) of each document of a shard."""
    for start in range(0, len(shard), _CHUNK):
        numbers = shard.file.rows("numbers", start, min(start + _CHUNK, len(shard))).tolist()
        yield from ((number, index, start + place) for place, number in enumerate(numbers))


def _check_numbers(shard: ArchiveDocuments) -> None:
    table = shard.file.tensors.get("numbers")
    if table is None or table.shape != (len(shard),) or table.kind != "I64":
        raise FormatError(f"{shard.path}: is an archive, but not a shard: it has no document numbers.")


def _joined_settings(shards: Sequence[ArchiveDocuments]) -> dict[str, str]:
    """The settings of the run: those that all shards share, and what they counted."""
    tables: list[dict[str, Any]] = [dict(shard.metadata["settings"]) for shard in shards]
    counts = [json.loads(table.pop("data", "{}")) for table in tables]
    for shard, table in zip(shards, tables, strict=True):
        table.pop("shard", None)
        other = sorted(name for name in {*tables[0], *table} if tables[0].get(name) != table.get(name))
        if other:
            raise FormatError(f"{shard.path}: it comes from a different run than {shards[0].path.name} ({', '.join(other)}). Recreate it.")
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
