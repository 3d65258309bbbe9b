"""A safetensors file written as a stream: the library's own writer wants every tensor in memory at once."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_ITEM_BYTES = {"I64": 8, "F32": 4, "F16": 2, "U8": 1}


@dataclass(frozen=True, slots=True)
class StreamedTensor:
    """A tensor whose bytes come in blocks: its safetensors name of the dtype, its shape, its data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Iterator[bytes]

    @property
    def num_bytes(self) -> int:
        """Bytes that the blocks must add up to."""
        total = _ITEM_BYTES[self.dtype]
        for size in self.shape:
            total *= size
        return total


def write_safetensors(path: Path, tensors: Sequence[StreamedTensor], metadata: Mapping[str, str]) -> None:
    """Write the file beside its place and move it there when it is whole; pass wider dtypes first, so that all stay aligned.

    Format: https://github.com/huggingface/safetensors (header length, JSON header, data).
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for tensor in tensors:
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, begin + tensor.num_bytes]}
        begin += tensor.num_bytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            for tensor in tensors:
                written = sum(file.write(block) for block in tensor.blocks)
                assert written == tensor.num_bytes, f"{tensor.name}: {written} bytes for {tensor.num_bytes}"
        beside.replace(path)
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}: the archive could not be written, its parts are kept; run the same command again", str(path)
        ) from error
    finally:
        beside.unlink(missing_ok=True)
