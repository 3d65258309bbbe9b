"""A safetensors file read by position, never memory-mapped: every range is checked against the file, every block against its checksum.

A file that is truncated while open is an error here; with a memory map it would be SIGBUS.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attviz.errors import FormatError
from attviz.files import check_input, open_regular
from attviz.io.stream import BLOCK

_DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
_LONGEST_HEADER = 16 << 20
_KEPT = 32  # blocks in memory: 2 MiB
_seeking = threading.Lock()


@dataclass(frozen=True, slots=True)
class Table:
    """One entry of the header: where a tensor lies in the file, in bytes from the start."""

    kind: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


class BlockFile:
    """An open safetensors file: its metadata, its tensors by name, and ranges of them."""

    def __init__(self, path: Path, *, what: str) -> None:
        """Open the file and read its header.

        Args:
            path: The file.
            what: What it should be, for messages.

        Raises:
            FormatError: If it is not a safetensors file, is truncated, or its header was changed after it was written.
            FileNotFoundError: If it does not exist.
        """
        self.path, self._what = path, what
        check_input(path, what)
        self._descriptor = open_regular(path, what)
        weakref.finalize(self, os.close, self._descriptor)
        self.num_bytes = os.fstat(self._descriptor).st_size
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._guard = threading.Lock()
        header = self._header()
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.tensors = {name: self._table(name, entry) for name, entry in header.items()}
        self._check_tables()
        self._sums = self._read_sums(self.tensors["checksums"]) if "checksums" in self.tensors else None

    @property
    def has_checksums(self) -> bool:
        """Whether blocks can be checked; archives of version 1 have no checksums."""
        return self._sums is not None

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows ``first:last`` of a tensor, verified.

        Raises:
            FormatError: If the range is outside the tensor, the file was truncated, or a block is damaged.
        """
        table = self.tensors[name]
        if not 0 <= first <= last <= (table.shape[0] if table.shape else 0):
            raise FormatError(f"{self.path}: rows {first} to {last} of {name} do not exist. {DAMAGED}")
        row_bytes = table.dtype.itemsize * int(np.prod(table.shape[1:], dtype=np.int64))
        raw = self._range(table.begin + first * row_bytes, table.begin + last * row_bytes)
        return np.frombuffer(raw, dtype=table.dtype).reshape(last - first, *table.shape[1:])

    def damaged_blocks(self) -> Iterator[tuple[int, int]]:
        """Read the whole file and yield the byte ranges whose checksum does not match.

        Raises:
            FormatError: If the file is truncated.
        """
        for number in range(0 if self._sums is None else len(self._sums)):
            begin, end = self._block_range(number)
            if zlib.crc32(self._read(begin, end)) != self._sum(number):
                yield begin, end

    def tensors_in(self, begin: int, end: int) -> list[str]:
        """Names of the tensors that a range of bytes belongs to."""
        return [name for name, table in self.tensors.items() if table.begin < end and begin < table.end]

    def _header(self) -> dict[str, Any]:
        not_one = f"{self.path}: not {self._what}, or cut short"
        if self.num_bytes < 8:
            raise FormatError(f"{not_one} ({self.num_bytes} bytes). {DAMAGED}")
        (length,) = struct.unpack("<Q", self._read(0, 8))
        if not 2 <= length <= min(self.num_bytes - 8, _LONGEST_HEADER):
            raise FormatError(f"{not_one} (its header claims {length} bytes). {DAMAGED}")
        self._data = 8 + length
        self._raw_header = self._read(0, self._data)
        try:
            header = json.loads(self._raw_header[8:])
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{not_one} (its header is not JSON: {type(error).__name__}). {DAMAGED}") from error
        if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
            raise FormatError(f"{not_one} (its header is not a table). {DAMAGED}")
        return header

    def _table(self, name: str, entry: Any) -> Table:
        try:
            dtype: np.dtype[Any] = _DTYPES[entry["dtype"]]
            shape = tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if not all(type(number) is int and 0 <= number < 1 << 60 for number in (*shape, begin, end)):
                raise ValueError("not a size")
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{self.path}: the header's entry for {name[:80]!r} cannot be read. {DAMAGED}") from error
        wanted = dtype.itemsize
        for size in shape:
            wanted *= size
        if end - begin != wanted or self._data + end > self.num_bytes:
            raise FormatError(f"{self.path}: not {self._what}, or cut short ({name[:80]!r} ends at byte {self._data + end}). {DAMAGED}")
        return Table(entry["dtype"], dtype, shape, self._data + begin, self._data + end)

    def _check_tables(self) -> None:
        """Tensors are contiguous from the header to the end of the file."""
        place = self._data
        for name, table in sorted(self.tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
            if table.begin != place:
                raise FormatError(f"{self.path}: {name[:80]!r} begins at byte {table.begin}, not at {place}. {DAMAGED}")
            place = table.end
        if place != self.num_bytes:
            raise FormatError(f"{self.path}: not {self._what}, or cut short ({self.num_bytes} bytes, its header says {place}). {DAMAGED}")

    def _read_sums(self, table: Table) -> np.ndarray:
        count = -(-(table.begin - self._data) // BLOCK) + 1
        if table.dtype != np.uint8 or table.shape != (4 * count,) or table.end != self.num_bytes:
            raise FormatError(f"{self.path}: there must be {count} checksums at the end of the file. {DAMAGED}")
        raw = self._read(table.begin, table.end)
        if zlib.crc32(raw[:-4], zlib.crc32(self._raw_header)) != int.from_bytes(raw[-4:], "little"):
            raise FormatError(f"{self.path}: the header has changed since it was written: its checksum differs. {DAMAGED}")
        return np.frombuffer(raw[:-4], dtype="<u4")

    def _range(self, begin: int, end: int) -> bytes:
        if self._sums is None or begin == end:
            return self._read(begin, end)
        first, last = (begin - self._data) // BLOCK, (end - 1 - self._data) // BLOCK
        blocks = [self._block(number) for number in range(first, last + 1)]
        start = self._data + first * BLOCK
        return b"".join(blocks)[begin - start : end - start]

    def _block(self, number: int) -> bytes:
        with self._guard:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        begin, end = self._block_range(number)
        content = self._read(begin, end)
        if zlib.crc32(content) != self._sum(number):
            names = ", ".join(self.tensors_in(begin, end))
            raise FormatError(f"{self.path}: bytes {begin} to {end} ({names}) have changed since they were written. {DAMAGED}")
        with self._guard:
            self._kept[number] = content
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return content

    def _block_range(self, number: int) -> tuple[int, int]:
        begin = self._data + number * BLOCK
        return begin, min(begin + BLOCK, self.tensors["checksums"].begin)

    def _sum(self, number: int) -> int:
        assert self._sums is not None
        return int(self._sums[number])

    def _read(self, begin: int, end: int) -> bytes:
        """Exactly the requested number of bytes at a position, or an error."""
        parts, place = [], begin
        while place < end:
            part = _read_at(self._descriptor, min(end - place, 1 << 26), place)
            if not part:
                raise FormatError(f"{self.path}: ends at byte {place}, but had {self.num_bytes}: it was truncated while open.")
            parts.append(part)
            place += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


DAMAGED = "The file is damaged: recreate it with `attviz analyze`, or restore a copy."

if hasattr(os, "pread"):

    def _read_at(descriptor: int, size: int, place: int) -> bytes:
        return os.pread(descriptor, size, place)

else:  # Windows: the position is shared by all threads

    def _read_at(descriptor: int, size: int, place: int) -> bytes:
        with _seeking:
            os.lseek(descriptor, place, os.SEEK_SET)
            return os.read(descriptor, size)
