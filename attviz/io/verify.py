"""Whether an archive is intact: every block against its checksum, every document against the rules of the format."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attviz.errors import FormatError
from attviz.io.archive import ArchiveDocuments

_MOST_FAULTS = 20


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What :func:`verify` found.

    Attributes:
        path: The archive.
        num_documents: Number of documents.
        num_tokens: Tokens of all documents.
        num_layers: Layers of the diagonals.
        num_heads: Heads per layer.
        num_bytes: Size of the file.
        precision: How the diagonals are stored, such as ``"float16"`` or ``"u8"``.
        has_checksums: False for archives of version 1, in which changed numbers go unnoticed.
        faults: What is wrong, one sentence each, at most 20; empty if the archive is intact.
    """

    path: Path
    num_documents: int
    num_tokens: int
    num_layers: int
    num_heads: int
    num_bytes: int
    precision: str
    has_checksums: bool
    faults: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.faults


def verify(path: str | os.PathLike[str]) -> ArchiveReport:
    """Read a whole archive and check its blocks, the positions and details of the documents, and that values are probabilities or NaN.

    Args:
        path: The archive.

    Returns:
        A report that is truthy if nothing is wrong: ``if not io.verify(path): ...``.

    Raises:
        FormatError: If it cannot even be opened as an archive; the message says why.
        FileNotFoundError: If there is no such file.
    """
    documents = ArchiveDocuments(path)
    diagonal = documents.file.tensors["diagonal"]
    faults: list[str] = []
    for begin, end in documents.file.damaged_blocks():
        names = ", ".join(documents.file.tensors_in(begin, end))
        faults.append(f"bytes {begin} to {end} ({names}) have changed since they were written")
        if len(faults) == _MOST_FAULTS:
            break
    for number in range(len(documents) if len(faults) < _MOST_FAULTS else 0):
        fault = _fault_of(documents, number)
        if fault is not None:
            faults.append(fault)
        if len(faults) == _MOST_FAULTS:
            break
    return ArchiveReport(
        path=documents.path,
        num_documents=len(documents),
        num_tokens=diagonal.shape[0],
        num_layers=len(documents.layers),
        num_heads=diagonal.shape[2],
        num_bytes=documents.file.num_bytes,
        precision=documents.precision,
        has_checksums=documents.file.has_checksums,
        faults=tuple(faults),
    )


def _fault_of(documents: ArchiveDocuments, number: int) -> str | None:
    try:
        values = documents[number].diagonal
    except FormatError as error:
        return f"document {number}: {error}"
    with np.errstate(invalid="ignore"):
        outside = int(((values < 0) | (values > 1)).sum())
    return f"document {number}: {outside} of its {values.size} values are outside [0, 1]" if outside else None
