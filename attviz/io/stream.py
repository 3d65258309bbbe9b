"""A safetensors file written as a stream, with checksums: the library's own writer wants every tensor in memory at once."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from attviz.errors import FormatError

BLOCK = 1 << 16  # bytes of the data that share a checksum
_ITEM_BYTES = {"I64": 8, "F32": 4, "F16": 2, "U16": 2, "U8": 1}


@dataclass(frozen=True, slots=True)
class StreamedTensor:
    """A tensor whose bytes come in blocks: safetensors name of the dtype, shape, data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Iterator[bytes]

    @property
    def item_bytes(self) -> int:
        """Bytes of one value."""
        return _ITEM_BYTES[self.dtype]

    @property
    def num_bytes(self) -> int:
        """Bytes that the blocks must add up to."""
        total = self.item_bytes
        for size in self.shape:
            total *= size
        return total


def write_safetensors(file: IO[bytes], tensors: Sequence[StreamedTensor], metadata: Mapping[str, str]) -> None:
    """Write header, tensors and, after them, ``checksums``; pass wider dtypes first, so that all stay aligned.

    ``checksums`` holds CRC-32 values as little-endian bytes: one for every :data:`BLOCK` bytes of the tensors before it (the last may be
    shorter), then one of the header and of these. Format: https://github.com/huggingface/safetensors (header length, JSON header, data).

    Raises:
        FormatError: If a tensor has more or fewer bytes than its shape says.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for tensor in tensors:
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, begin + tensor.num_bytes]}
        begin += tensor.num_bytes
    num_bytes = 4 * (-(-begin // BLOCK) + 1)
    header["checksums"] = {"dtype": "U8", "shape": [num_bytes], "data_offsets": [begin, begin + num_bytes]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    encoded = struct.pack("<Q", len(encoded)) + encoded
    file.write(encoded)
    sums = _Checksums()
    for tensor in tensors:
        written = 0
        for block in tensor.blocks:
            sums.take(block)
            written += file.write(block)
        if written != tensor.num_bytes:
            raise FormatError(f"{tensor.name}: {written} bytes instead of {tensor.num_bytes}; the source changed in the meantime.")
    own = sums.finished()
    file.write(own + struct.pack("<I", zlib.crc32(own, zlib.crc32(encoded))))


class _Checksums:
    """CRC-32 of every BLOCK bytes of a stream that comes in pieces of any size."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._open, self._filled = 0, 0

    def take(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            part = view[: BLOCK - self._filled]
            self._open, self._filled = zlib.crc32(part, self._open), self._filled + len(part)
            view = view[len(part) :]
            if self._filled == BLOCK:
                self._close()

    def finished(self) -> bytes:
        if self._filled:
            self._close()
        return np.array(self._done, dtype="<u4").tobytes()

    def _close(self) -> None:
        self._done.append(self._open)
        self._open, self._filled = 0, 0
