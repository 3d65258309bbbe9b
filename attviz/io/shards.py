"""One analysis made by several processes: each writes shards, which are complete archives; together they open as one.

A shard is ``NAME.shard-00003``. It holds what every archive holds, plus ``numbers``, the index of each document in the data set;
``windows`` and ``window_start``, the windows of texts that it covers and where each begins; and ``metric-0`` and so on, the saved states
of metrics. The shards are complete when their windows cover the data set, whichever process wrote them.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attviz.errors import ArgumentError, FormatError
from attviz.io.archive import ArchiveDocuments
from attviz.io.shard_names import found_shards
from attviz.on_demand import OnDemand
from attviz.records import Analysis, Document

_CHUNK, _SHOWN = 8192, 6


def has_shards(path: str | os.PathLike[str]) -> bool:
    """Whether there are shards of this archive, complete or not."""
    return any(found_shards(Path(path)))


def open_shards(path: str | os.PathLike[str]) -> Analysis:
    """The shards of an archive as one analysis, in the order of the data set. Documents are read on demand.

    Raises:
        FormatError: If texts are missing (the message names them), or the shards come from different runs.
        FileNotFoundError: If there are no shards.
    """
    documents = ShardedDocuments(complete_shards(Path(path)))
    first = documents.shards[0].metadata
    names = first["label_names"]
    return Analysis(
        layers=documents.layers,
        documents=documents,
        label_names=None if names is None else tuple(names),
        model_name=first["model_name"],
        settings=documents.settings,
    )


class ShardedDocuments(OnDemand[Document]):
    """The documents of all shards in the order of the data set."""

    def __init__(self, shards: Sequence[ArchiveDocuments]) -> None:
        self.shards = shards
        self.settings = joined_settings(self.shards)
        if not holds_documents(shards[0]):
            raise FormatError(
                f"{shards[0].path}: comes from a run with --statistics, which keeps no documents. `attviz merge` joins its metrics."
            )
        full = next((shard for shard in self.shards if shard.layers), self.shards[0])
        self.layers, self._num_heads = full.layers, full.file.tensors["diagonal"].shape[2]
        self.precision = full.precision
        for shard in self.shards:
            _check_numbers(shard)

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def __iter__(self) -> Iterator[Document]:
        """All documents in order, each checked to occur once."""
        before = -1
        for number, shard, place in heapq.merge(*(_numbered(one, index) for index, one in enumerate(self.shards))):
            if number <= before:
                raise FormatError(f"{self.shards[shard].path}: document {place} is out of order, or in two shards. Recreate the shards.")
            before = number
            yield self._document(shard, place)

    @cached_property
    def _windows(self) -> np.ndarray:
        """[windows, 3]: shard, first document in it, and first document of all, in the order of the data set."""
        rows: list[np.ndarray] = []
        for place, shard in enumerate(self.shards):
            windows = np.array(windows_of(shard), dtype=np.int64)
            starts = _rows(shard, "window_start", len(windows))
            ends = np.append(starts[1:], len(shard))
            if len(windows) and (starts[0] != 0 or (starts > ends).any()):
                raise FormatError(f"{shard.path}: window_start must increase from 0 to its {len(shard)} documents. Recreate the shard.")
            rows.append(np.stack([windows, np.full_like(windows, place), starts, ends - starts], axis=1))
        table = np.concatenate(rows)
        table = table[np.argsort(table[:, 0], kind="stable")]
        return np.stack([table[:, 1], table[:, 2], np.cumsum(table[:, 3]) - table[:, 3]], axis=1)

    def _where(self) -> str:
        return f"{self.shards[0].path} and its like"

    def _read(self, number: int) -> Document:
        window = int(np.searchsorted(self._windows[:, 2], number, side="right")) - 1
        shard, start, first = self._windows[window].tolist()
        return self._document(shard, start + number - first)

    def _document(self, shard: int, place: int) -> Document:
        document = self.shards[shard][place]
        shape = (len(self.layers), self._num_heads)
        if document.diagonal.shape[:2] == shape or document.tokens:
            return document
        return replace(document, diagonal=np.zeros((*shape, 0), dtype=document.diagonal.dtype))  # of a shard with empty texts alone


def complete_shards(path: Path) -> list[ArchiveDocuments]:
    """The shards, if their windows cover the data set, each once.

    Raises:
        FormatError: If texts are missing, or in two shards.
        FileNotFoundError: If there are no shards.
    """
    finished, parts = found_shards(path)
    if not finished and not parts:
        raise FileNotFoundError(
            f"{path}: there are no shards of this archive. `attviz analyze MODEL DATA -o {path} --shard 0/4` makes one."
        )
    shards = [ArchiveDocuments(one) for one in finished]
    holder: dict[int, Path] = {}
    for shard in shards:
        for window in windows_of(shard):
            if window in holder:
                raise FormatError(f"{shard.path} and {holder[window].name} both hold window {window}. Remove one of them, and run again.")
            holder[window] = shard.path
    counts = {_share(shard)[1] for shard in shards}
    size, texts = _share(shards[0]) if shards else (1, 0)
    if len(counts) > 1:
        raise FormatError(f"{path}: its shards counted {' and '.join(map(str, sorted(counts)))} texts. Give all processes the same data.")
    if not shards or (missing := sorted(set(range(-(-texts // size))) - holder.keys())):
        left = f"of {texts} texts, {_texts_of(missing, size, texts)} are not done" if shards else "no shard is finished"
        running = f" ({len(parts)} processes are at work, or died)" if parts else ""
        raise FormatError(f"{path}: {left}{running}. Run the same command again, with any number of processes.")
    return shards


def _texts_of(windows: Sequence[int], size: int, texts: int) -> str:
    spans = [f"{window * size} to {min((window + 1) * size, texts) - 1}" for window in windows[:_SHOWN]]
    return "those from " + ", ".join(spans) + (f" and {len(windows) - _SHOWN} windows more" if len(windows) > _SHOWN else "")


def windows_of(shard: ArchiveDocuments) -> list[int]:
    """The windows of texts that a shard covers.

    Raises:
        FormatError: If the shard does not say.
    """
    table = shard.file.tensors.get("windows")
    windows: list[int] = _rows(shard, "windows", table.shape[0] if table is not None and table.shape else 0).tolist()
    return windows


def _rows(shard: ArchiveDocuments, name: str, count: int) -> np.ndarray:
    table = shard.file.tensors.get(name)
    if table is None or table.shape != (count,) or table.kind != "I64":
        raise FormatError(f"{shard.path}: is an archive, but not a shard of this version: it does not say which windows it covers.")
    return shard.file.rows(name, 0, count)


def _share(shard: ArchiveDocuments) -> tuple[int, int]:
    """Number of texts in a window, and in the whole data set."""
    try:
        settings = shard.metadata["settings"]
        size, texts = json.loads(settings["share"])["window_texts"], json.loads(settings["data"])["texts"]
        if type(size) is not int or type(texts) is not int or size < 1 or not 0 <= texts < 1 << 60:
            raise ValueError("not a size")
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{shard.path}: does not say how large its run was ({type(error).__name__}). Recreate it.") from error
    return size, texts


def holds_documents(shard: ArchiveDocuments) -> bool:
    """Whether the run kept documents, not only statistics."""
    return bool(json.loads(shard.metadata["settings"]["share"]).get("documents", True))


def _numbered(shard: ArchiveDocuments, index: int) -> Iterator[tuple[int, int, int]]:
    """(index in the data set, shard, index in the shard) of each document of a shard."""
    for start in range(0, len(shard), _CHUNK):
        numbers = shard.file.rows("numbers", start, min(start + _CHUNK, len(shard))).tolist()
        yield from ((number, index, start + place) for place, number in enumerate(numbers))


def _check_numbers(shard: ArchiveDocuments) -> None:
    table = shard.file.tensors.get("numbers")
    if table is None or table.shape != (len(shard),) or table.kind != "I64":
        raise FormatError(f"{shard.path}: is an archive, but not a shard: it has no document numbers.")


def joined_settings(shards: Sequence[ArchiveDocuments]) -> dict[str, str]:
    """The settings of the run: those that all shards share, and what they counted."""
    tables: list[dict[str, Any]] = [dict(shard.metadata["settings"]) for shard in shards]
    counts = [json.loads(table.pop("data", "{}")) for table in tables]
    for shard, table in zip(shards, tables, strict=True):
        for own in ("shard", "share"):
            table.pop(own, None)
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
