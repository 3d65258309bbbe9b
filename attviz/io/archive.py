"""The attviz archive: one safetensors file with an :class:`~attviz.records.Analysis`, read document by document.

The tokens of all documents are concatenated, so that the header stays small for any number of documents:

    diagonal      [num_tokens, num_layers, num_heads]   float16, float32, or codes of one or two bytes (attviz.codes)
    token_ids     [num_tokens]                          int64, -1 where there is none
    offsets       [num_tokens, 2]                       int64, (-1, -1) where unknown
    special       [num_tokens]                          uint8: 0, 1, or 2 where unknown
    token_start   [num_documents + 1]                   int64: document n owns tokens token_start[n] : token_start[n + 1]
    details       [num_bytes]                           uint8: one JSON object per document (text, tokens, name, classes, grid)
    detail_start  [num_documents + 1]                   int64
    checksums     [4 * (num_blocks + 1)]                uint8: see :mod:`attviz.io.stream`; archives of version 1 have none

The file's metadata has ``format = "attviz"``, ``version``, ``layers``, ``label_names``, ``model_name`` and ``settings``.
Opening an archive reads its header and checksums only; a document is read, and verified, when it is indexed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attviz.documents import Diagonals, as_analysis
from attviz.errors import FormatError
from attviz.io.blocks import DAMAGED, BlockFile
from attviz.io.details import MAX_BYTES, decode_details
from attviz.io.partial import VERSION, PartialArchive
from attviz.io.storage import BY_KIND, STORAGES
from attviz.on_demand import OnDemand
from attviz.records import Analysis, Document

_TENSORS = ("diagonal", "token_ids", "offsets", "special", "token_start", "details", "detail_start")
_VERSIONS = ("1", VERSION)
_BATCH = 64  # documents that go to the disk together


def save(analysis: Diagonals, path: str | os.PathLike[str], *, precision: str = "float16", overwrite: bool = False) -> Path:
    """Write an analysis to one archive, document by document. The file appears only once it is complete and on disk.

    Args:
        analysis: The result of :func:`attviz.analyze`, a Capture, or Documents. Anything with the attributes of an Analysis works.
        path: Usually ``something.attviz``.
        precision: Precision of the stored diagonals: ``"float32"``, ``"float16"``, or codes: ``"u16"`` (relative error 2.3e-4 from 1e-8
            to 0.0658, absolute 1.6e-5 above) and ``"u8"`` (relative error 2.8 % from 1e-6).
        overwrite: Whether an existing file may be replaced, at the end. A stopped run of ``analyze`` is left alone.

    Returns:
        The path.

    Raises:
        ArgumentError: If the precision is unknown; if the file exists and ``overwrite`` is False, or it is a device or a folder.
        FormatError: If another process writes to the same archive.
        OSError: If the disk is full or the folder cannot be written; an existing file is unchanged.
    """
    analysis = as_analysis(analysis, "io.save")
    with PartialArchive(path, {"precision": precision}, resumable=False, overwrite=overwrite) as growing:
        batch: list[tuple[int, Document]] = []
        for number, document in enumerate(analysis.documents):
            batch.append((number, document))
            if len(batch) == _BATCH:
                growing.append(batch, analysis.layers)
                batch = []
        growing.append(batch, analysis.layers)
        growing.finish(layers=analysis.layers, label_names=analysis.label_names, model_name=analysis.model_name, settings=analysis.settings)
    return Path(path)


def load(path: str | os.PathLike[str]) -> Analysis:
    """Open an archive, or the shards of one that was not merged. Documents are read on demand.

    Raises:
        FormatError: If the file is not an attviz archive, or is of a newer version, truncated, damaged or inconsistent.
        FileNotFoundError: If there is no such file.
    """
    if not os.path.lexists(path):
        from attviz.io.shards import has_shards, open_shards

        if has_shards(path):
            return open_shards(path)
    documents = ArchiveDocuments(path)
    metadata = documents.metadata
    return Analysis(
        layers=documents.layers,
        documents=documents,
        label_names=tuple(metadata["label_names"]) if metadata["label_names"] is not None else None,
        model_name=metadata["model_name"],
        settings=metadata["settings"],
    )


class ArchiveDocuments(OnDemand[Document]):
    """The documents of an archive, each read from disk when it is indexed; pickles as a path."""

    def __init__(self, path: str | os.PathLike[str], *, owner: object = None) -> None:
        """Open and check the archive.

        Args:
            path: The file.
            owner: The temporary folder that holds the file; kept alive as long as the documents.
        """
        self.path, self._owner = Path(path), owner
        if not self.path.exists() and not self.path.is_symlink():
            raise FileNotFoundError(f"{path}: no such archive. `attviz analyze MODEL DATA -o {path}` makes one.")
        self.file = BlockFile(self.path, what="an attviz archive")
        self.metadata = _metadata(self.file)
        self.layers: tuple[str, ...] = tuple(self.metadata["layers"])
        self._decode = STORAGES[self.precision].decode
        self._check()

    @property
    def precision(self) -> str:
        """How the diagonals are stored."""
        return BY_KIND[self.file.tensors["diagonal"].kind]

    def __len__(self) -> int:
        return self.file.tensors["token_start"].shape[0] - 1

    def __reduce__(self) -> tuple[Callable[..., ArchiveDocuments], tuple[Path]]:
        return type(self), (self.path,)

    def tokens_of(self, number: int) -> tuple[int, int]:
        """Start and end of a document's tokens among those of all documents."""
        return self._span("token_start", "diagonal", number)

    def _check(self) -> None:
        shapes = {name: self.file.tensors[name].shape for name in _TENSORS}
        num_tokens = shapes["diagonal"][0] if shapes["diagonal"] else 0
        starts = shapes["token_start"]
        wanted = {"token_ids": (num_tokens,), "offsets": (num_tokens, 2), "special": (num_tokens,), "detail_start": starts}
        for name, shape in wanted.items():
            if shapes[name] != shape:
                raise FormatError(f"{self.path}: {name} must have shape {list(shape)}, got {list(shapes[name])}. {DAMAGED}")
        if len(shapes["diagonal"]) != 3 or (num_tokens and shapes["diagonal"][1] != len(self.layers)):
            raise FormatError(
                f"{self.path}: diagonal must be [num_tokens, num_layers, num_heads] for {len(self.layers)} layers, "
                f"got {list(shapes['diagonal'])}. {DAMAGED}"
            )
        for name, of in (("token_start", "diagonal"), ("detail_start", "details")):
            if len(starts) != 1 or starts[0] < 1 or self._ends(name) != (0, shapes[of][0]):
                raise FormatError(f"{self.path}: {name} must increase from 0 to {shapes[of][0]}, the length of {of}. {DAMAGED}")

    def _ends(self, name: str) -> tuple[int, int]:
        length = self.file.tensors[name].shape[0]
        return int(self.file.rows(name, 0, 1)[0]), int(self.file.rows(name, length - 1, length)[0])

    def _span(self, name: str, of: str, number: int) -> tuple[int, int]:
        first, last = (int(value) for value in self.file.rows(name, number, number + 2))
        if not 0 <= first <= last <= self.file.tensors[of].shape[0]:
            raise FormatError(f"{self.path}: {name} must increase, but does not at document {number}. {DAMAGED}")
        return first, last

    def _where(self) -> str:
        return str(self.path)

    def _read(self, number: int) -> Document:
        where = f"{self.path}: document {number}"
        first, last = self.tokens_of(number)
        begin, end = self._span("detail_start", "details", number)
        if end - begin > MAX_BYTES:
            raise FormatError(f"{where}: its details take {end - begin} bytes, more than {MAX_BYTES}. {DAMAGED}")
        details = decode_details(self.file.rows("details", begin, end).tobytes(), where, last - first)
        ids, offsets, special = (self.file.rows(name, first, last) for name in ("token_ids", "offsets", "special"))
        return Document(
            **details,
            diagonal=np.ascontiguousarray(self._decode(self.file.rows("diagonal", first, last)).transpose(1, 2, 0)),
            token_ids=None if (ids < 0).all() else ids,
            offsets=None if (offsets < 0).all() else offsets,
            special=None if (special > 1).all() else special.astype(bool),
        )


def _metadata(file: BlockFile) -> dict[str, Any]:
    raw, path = file.metadata, file.path
    if raw.get("format") != "attviz":
        raise FormatError(f"{path}: a safetensors file, but not an attviz archive (its metadata has no format = 'attviz').")
    if raw.get("version") not in _VERSIONS:
        version = str(raw.get("version"))[:20]
        raise FormatError(f"{path}: archive version {version}, but this attviz reads versions {' and '.join(_VERSIONS)}. Update attviz.")
    missing = sorted(set(_TENSORS) - set(file.tensors)) + ([] if file.has_checksums or raw["version"] == "1" else ["checksums"])
    if missing:
        raise FormatError(f"{path}: the archive lacks {', '.join(missing)}. {DAMAGED}")
    for name in _TENSORS:
        kinds = tuple(BY_KIND) if name == "diagonal" else ("U8",) if name in ("special", "details") else ("I64",)
        if file.tensors[name].kind not in kinds:
            raise FormatError(f"{path}: {name} must hold {' or '.join(kinds)}, got {file.tensors[name].kind}. {DAMAGED}")
    try:
        metadata = {name: json.loads(raw[name]) for name in ("layers", "label_names", "model_name", "settings")}
        _check_metadata(**metadata)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: the archive's metadata cannot be read ({type(error).__name__}: {error}).") from error
    return metadata


def _check_metadata(layers: Any, label_names: Any, model_name: Any, settings: Any) -> None:
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise TypeError("layers are not names")
    if label_names is not None and not (isinstance(label_names, list) and all(isinstance(name, str) for name in label_names)):
        raise TypeError("label_names are not names")
    if not isinstance(model_name, str) or not isinstance(settings, dict):
        raise TypeError("model_name or settings")
