"""Columns that only grow, and the journal that says how much of them counts: one line per batch, written after its data.

A batch exists with its line or not at all: a line has a checksum of itself and of the bytes it stands for, so whatever a kill, a full disk
or a power cut left incomplete is recognised and removed.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attviz.errors import FormatError
from attviz.files import open_regular

COLUMNS = ("diagonal", "token_ids", "offsets", "special", "details")
FILES = (*(f"{name}.bin" for name in COLUMNS), "journal", "run.json", "metric-*.safetensors")
_LONGEST_LINE = 16 << 20
_SYNC_SECONDS = 5.0
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


class Journal:
    """The growing files of one folder; :meth:`close` may be called at any moment.

    Attributes:
        num_batches: Batches that count.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create the files, find what counts, and remove the rest.

        Raises:
            FormatError: If a file is a link, a folder, a device.
            OSError: If a file cannot be opened.
        """
        self.folder = folder
        self._files: dict[str, int] = {}
        try:
            for name in (*(f"{name}.bin" for name in COLUMNS), "journal"):
                self._files[name] = open_regular(folder / name, "a part of a stopped run", os.O_RDWR | os.O_CREAT | _NO_FOLLOW)
            self._used = dict.fromkeys(self._files, 0)
            self.num_batches = 0
            for _ in self._sound_lines():
                pass
            self._cut()
        except BaseException:
            self.close()
            raise
        self._synced = time.monotonic()

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines, in order."""
        with open(self.folder / "journal", "rb") as file:
            while file.tell() < self._used["journal"]:
                line = parsed_line(file.readline(_LONGEST_LINE))
                if line is None:
                    raise FormatError(f"{self.folder}/journal: changed while in use. Remove the folder to start over.")
                yield line

    def append(self, columns: Mapping[str, bytes], line: Mapping[str, Any]) -> None:
        """Write a batch to disk.

        Args:
            columns: Bytes to add to each column.
            line: Their journal entry.

        Raises:
            OSError: If the disk is full; the files are unchanged.
        """
        note = {"sizes": [len(columns[name]) for name in COLUMNS], "crc": [zlib.crc32(columns[name]) for name in COLUMNS], **line}
        try:
            for name in COLUMNS:
                _write(self._files[f"{name}.bin"], columns[name], self._used[f"{name}.bin"])
            self._sync_sometimes()
            self._note(note)
        except BaseException:
            self._cut()
            raise
        for name in COLUMNS:
            self._used[f"{name}.bin"] += len(columns[name])
        self.num_batches += 1

    def note(self, line: Mapping[str, Any]) -> None:
        """Write a line that stands for no data, and sync everything before it."""
        self.sync()
        try:
            self._note(line)
        except BaseException:
            self._cut()
            raise
        self.sync()

    def sync(self) -> None:
        """Sync the files, so that what was written survives a power cut."""
        for descriptor in self._files.values():
            os.fsync(descriptor)
        self._synced = time.monotonic()

    def cut_after(self, num_batches: int) -> None:
        """Drop all batches after the given number of them, and what was noted after that."""
        used, count = dict.fromkeys(self._files, 0), 0
        with open(self.folder / "journal", "rb") as file:
            while file.tell() < self._used["journal"]:
                line = parsed_line(file.readline(_LONGEST_LINE)) or {}
                if "sizes" in line:
                    if count == num_batches:
                        break
                    count += 1
                    for name, size in zip(COLUMNS, line["sizes"], strict=True):
                        used[f"{name}.bin"] += size
                used["journal"] = file.tell()
        self._used, self.num_batches = used, count
        self._cut()

    def close(self) -> None:
        """Close the files; nothing is buffered, and closing twice is harmless."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _note(self, line: Mapping[str, Any]) -> None:
        content = written_line(line)
        _write(self._files["journal"], content, self._used["journal"])
        self._used["journal"] += len(content)

    def _sync_sometimes(self) -> None:
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def _cut(self) -> None:
        for name, descriptor in self._files.items():
            os.ftruncate(descriptor, self._used[name])

    def _sound_lines(self) -> Iterator[None]:
        """Walk the journal as far as its lines and their data are complete, counting."""
        with open(self.folder / "journal", "rb") as file:
            while True:
                line = parsed_line(file.readline(_LONGEST_LINE))
                if line is None or ("sizes" in line and not self._whole(line)):
                    return
                if "sizes" in line:
                    self.num_batches += 1
                    for name, size in zip(COLUMNS, line["sizes"], strict=True):
                        self._used[f"{name}.bin"] += size
                self._used["journal"] = file.tell()
                yield

    def _whole(self, line: Mapping[str, Any]) -> bool:
        sizes, sums = line["sizes"], line.get("crc", ())
        if not (_are_sizes(sizes) and _are_sizes(sums)):
            return False
        for name, size, expected in zip(COLUMNS, sizes, sums, strict=True):
            descriptor, place = self._files[f"{name}.bin"], self._used[f"{name}.bin"]
            if place + size > os.fstat(descriptor).st_size or _crc(descriptor, place, size) != expected:
                return False
        return True


def _are_sizes(values: Any) -> bool:
    return isinstance(values, Sequence) and len(values) == len(COLUMNS) and all(type(value) is int and value >= 0 for value in values)


def written_line(line: Mapping[str, Any]) -> bytes:
    """A line with its checksum."""
    content = json.dumps(line).encode("ascii")
    return b"%08x " % zlib.crc32(content) + content + b"\n"


def parsed_line(raw: bytes) -> dict[str, Any] | None:
    """The parsed line, or None if it is incomplete or not ours."""
    if not raw.endswith(b"\n") or raw[8:9] != b" ":
        return None
    try:
        if int(raw[:8], 16) != zlib.crc32(raw[9:-1]):
            return None
        line = json.loads(raw[9:-1])
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _write(descriptor: int, content: bytes, place: int) -> None:
    os.lseek(descriptor, place, os.SEEK_SET)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _crc(descriptor: int, place: int, size: int) -> int:
    os.lseek(descriptor, place, os.SEEK_SET)
    value = 0
    while size and (part := os.read(descriptor, min(size, 1 << 22))):
        value, size = zlib.crc32(part, value), size - len(part)
    return value
