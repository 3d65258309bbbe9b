"""The parts of a growing archive put into the order of the data set, as streams of blocks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attviz.io.storage import Storage
from attviz.io.stream import StreamedTensor

_BYTES = np.dtype("u1")
_INT64 = np.dtype("<i8")


def joined(
    folder: Path, spans: np.ndarray, shape: tuple[int, int], storage: Storage, *, keep_numbers: bool = False
) -> list[StreamedTensor]:
    """The tensors of an archive, read from the parts one document at a time.

    Args:
        folder: Where the ``.bin`` files are.
        spans: [num_documents, 3]: number in the data set, tokens, bytes of details, in the order of the files.
        shape: (num_layers, num_heads).
        storage: How diagonals are stored.
        keep_numbers: Keep the numbers in the data set, which determine the order of joined shards.
    """
    order = np.argsort(spans[:, 0], kind="stable")
    tokens, details = spans[:, 1], spans[:, 2]
    total = int(tokens.sum())
    rows = partial(_ordered, order=order, lengths=tokens)
    numbers = [_in_memory("numbers", np.ascontiguousarray(spans[order, 0], dtype=_INT64))] if keep_numbers else []
    return [
        *numbers,
        _in_memory("token_start", _cumulated(tokens[order])),
        _in_memory("detail_start", _cumulated(details[order])),
        StreamedTensor("token_ids", "I64", (total,), rows(folder / "token_ids.bin", row=(_INT64, ()))),
        StreamedTensor("offsets", "I64", (total, 2), rows(folder / "offsets.bin", row=(_INT64, (2,)))),
        StreamedTensor("diagonal", storage.kind, (total, *shape), rows(folder / "diagonal.bin", row=(storage.dtype, shape))),
        StreamedTensor("special", "U8", (total,), rows(folder / "special.bin", row=(_BYTES, ()))),
        StreamedTensor(
            "details", "U8", (int(details.sum()),), _ordered(folder / "details.bin", order=order, lengths=details, row=(_BYTES, ()))
        ),
    ]


def _in_memory(name: str, values: np.ndarray) -> StreamedTensor:
    return StreamedTensor(name, "I64", values.shape, iter([values.tobytes()]))


def _cumulated(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(_INT64)


def _ordered(path: Path, *, order: np.ndarray, lengths: np.ndarray, row: tuple[np.dtype[Any], tuple[int, ...]]) -> Iterator[bytes]:
    """The rows of each document, in the new order: one read per document, so memory holds one."""
    dtype, shape = row
    row_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    starts = _cumulated(lengths) * row_bytes
    with path.open("rb") as file:
        for place in order:
            file.seek(int(starts[place]))
            yield file.read(int(lengths[place]) * row_bytes)
