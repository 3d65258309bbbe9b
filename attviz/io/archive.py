"""The attviz archive: one safetensors file that holds an :class:`~attviz.records.Analysis`, read document by document.

Tokens of all documents stand in a row, so that the header stays small however many documents there are:

    diagonal      [num_tokens, num_layers, num_heads]   float16 or float32
    token_ids     [num_tokens]                          int64, -1 where there is none
    offsets       [num_tokens, 2]                       int64, (-1, -1) where unknown
    special       [num_tokens]                          uint8: 0, 1, or 2 where unknown
    token_start   [num_documents + 1]                   int64: document n owns tokens token_start[n] : token_start[n + 1]
    details       [num_bytes]                           uint8: one JSON object per document (text, tokens, name, classes, grid)
    detail_start  [num_documents + 1]                   int64

The metadata of the file carry ``format = "attviz"``, ``version``, ``layers``, ``label_names``, ``model_name`` and ``settings``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from attviz.errors import FormatError
from attviz.io.partial import PartialArchive
from attviz.records import Analysis, Document

VERSION = "1"
_TENSORS = ("diagonal", "token_ids", "offsets", "special", "token_start", "details", "detail_start")


def save(analysis: Analysis, path: str | os.PathLike[str], *, precision: str = "float16") -> Path:
    """Write an analysis to one archive, document by document; the file appears only when it is whole.

    Args:
        analysis: What :func:`attviz.analyze` returned; anything with the same attributes will do.
        path: Usually ``something.attviz``; an existing file is replaced at the end.
        precision: ``"float16"`` or ``"float32"`` for the diagonals.

    Returns:
        The path.

    Raises:
        ArgumentError: If the precision is another.
        FormatError: If another process writes to the same archive.
        OSError: If the disk is full or the folder cannot be written.
    """
    with PartialArchive(path, {"saved": "1", "precision": precision}, fresh=True) as partial:
        for number, document in enumerate(analysis.documents):
            partial.append([(number, document)], analysis.layers)
        partial.finish(layers=analysis.layers, label_names=analysis.label_names, model_name=analysis.model_name, settings=analysis.settings)
    return Path(path)


def load(path: str | os.PathLike[str]) -> Analysis:
    """Open an archive; its documents are read when they are asked for.

    Raises:
        FormatError: If the file is no attviz archive, of a newer version, cut short or inconsistent.
        FileNotFoundError: If there is no such file.
    """
    documents = ArchiveDocuments(path)
    metadata = documents.metadata
    return Analysis(
        layers=documents.layers,
        documents=documents,
        label_names=tuple(metadata["label_names"]) if metadata["label_names"] is not None else None,
        model_name=metadata["model_name"],
        settings=metadata["settings"],
    )


class ArchiveDocuments(Sequence[Document]):
    """The documents of an archive, each read from disk when it is indexed; pickles as a path."""

    def __init__(self, path: str | os.PathLike[str], *, owner: object = None) -> None:
        """Open and check the archive.

        Args:
            path: The file.
            owner: Kept alive as long as the documents are: the temporary folder that holds the file.
        """
        self.path, self._owner = Path(path), owner
        self._file = _open(self.path)
        self.metadata = _metadata(self._file, self.path)
        self.layers: tuple[str, ...] = tuple(self.metadata["layers"])
        self._token_start = self._starts("token_start", "diagonal")
        self._detail_start = self._starts("detail_start", "details")
        self._check()

    def __len__(self) -> int:
        return len(self._token_start) - 1

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self._read(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path}: document {index} of {len(self)}")
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[Document]:
        return (self._read(number) for number in range(len(self)))

    def __reduce__(self) -> tuple[Callable[..., ArchiveDocuments], tuple[Path]]:
        return type(self), (self.path,)

    def _starts(self, name: str, of: str) -> np.ndarray:
        starts: np.ndarray = self._file.get_tensor(name)
        length = self._file.get_slice(of).get_shape()[0]
        if starts.ndim != 1 or starts.size < 1 or starts[0] != 0 or starts[-1] != length or (np.diff(starts) < 0).any():
            raise FormatError(f"{self.path}: {name} must rise from 0 to {length}, the length of {of}. The file is damaged; make it anew.")
        return starts

    def _check(self) -> None:
        shapes = {name: list(self._file.get_slice(name).get_shape()) for name in _TENSORS}
        num_tokens = shapes["diagonal"][0]
        wanted = {"token_ids": [num_tokens], "offsets": [num_tokens, 2], "special": [num_tokens], "detail_start": shapes["token_start"]}
        for name, shape in wanted.items():
            if shapes[name] != shape:
                raise FormatError(f"{self.path}: {name} must have shape {shape}, got {shapes[name]}. The file is damaged; make it anew.")
        if len(shapes["diagonal"]) != 3 or (num_tokens and shapes["diagonal"][1] != len(self.layers)):
            raise FormatError(
                f"{self.path}: diagonal must be [num_tokens, num_layers, num_heads] for {len(self.layers)} layers, "
                f"got {shapes['diagonal']}. The file is damaged; make it anew."
            )

    def _rows(self, name: str, first: int, last: int) -> np.ndarray:
        rows = self._file.get_slice(name)
        if first == last:  # safetensors refuses an empty slice at the end
            return np.zeros((0, *rows.get_shape()[1:]), dtype=np.int64)
        part: np.ndarray = rows[first:last]
        return part

    def _read(self, number: int) -> Document:
        first, last = int(self._token_start[number]), int(self._token_start[number + 1])
        begin, end = int(self._detail_start[number]), int(self._detail_start[number + 1])

        details = _details(self._rows("details", begin, end).tobytes(), f"{self.path}: document {number}", last - first)
        ids, offsets, special = (self._rows(name, first, last) for name in ("token_ids", "offsets", "special"))
        return Document(
            text=details["text"],
            tokens=tuple(details["tokens"]),
            diagonal=np.ascontiguousarray(self._rows("diagonal", first, last).transpose(1, 2, 0)),
            token_ids=None if (ids < 0).all() else ids,
            offsets=None if (offsets < 0).all() else offsets,
            special=None if (special > 1).all() else special.astype(bool),
            name=details.get("name", ""),
            label=details.get("label"),
            prediction=details.get("prediction"),
            probabilities=None if details.get("probabilities") is None else np.asarray(details["probabilities"], dtype=np.float32),
            grid=None if details.get("grid") is None else (int(details["grid"][0]), int(details["grid"][1])),
        )


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise FormatError(f"{path}: is a folder, not an attviz archive. Name the .attviz file itself.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such archive. `attviz analyze MODEL DATA -o {path}` makes one.")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise FormatError(f"{path}: not an attviz archive, or cut short ({error}). Make it anew with `attviz analyze`.") from error


def _metadata(file: Any, path: Path) -> dict[str, Any]:
    raw = file.metadata() or {}
    if raw.get("format") != "attviz":
        raise FormatError(f"{path}: a safetensors file, but not an attviz archive (its metadata have no format = 'attviz').")
    if raw.get("version") != VERSION:
        raise FormatError(f"{path}: archive version {raw.get('version')}, this attviz reads version {VERSION}. Update attviz.")
    missing = sorted(set(_TENSORS) - set(file.keys()))
    if missing:
        raise FormatError(f"{path}: the archive lacks {', '.join(missing)}. Make it anew with `attviz analyze`.")
    try:
        metadata = {name: json.loads(raw[name]) for name in ("layers", "label_names", "model_name", "settings")}
        if not all(isinstance(layer, str) for layer in metadata["layers"]):
            raise TypeError("layers are not names")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: the archive's metadata cannot be read ({type(error).__name__}: {error}).") from error
    return metadata


def _details(raw: bytes, where: str, num_tokens: int) -> dict[str, Any]:
    try:
        details = json.loads(raw)
        if not isinstance(details["text"], str) or not all(isinstance(token, str) for token in details["tokens"]):
            raise TypeError("text and tokens must be strings")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{where}: its details cannot be read ({type(error).__name__}: {error}).") from error
    if len(details["tokens"]) != num_tokens:
        raise FormatError(f"{where}: {len(details['tokens'])} tokens for a diagonal of {num_tokens}. The file is damaged; make it anew.")
    return dict(details)
