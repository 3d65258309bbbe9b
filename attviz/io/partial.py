"""An archive while it grows: batches are appended to plain files in ``NAME.part/``, and joined into one file at the end.

A line of ``index.jsonl`` is written after the data of its document; whatever stands behind the last whole line is cut off
when the run is taken up again. So a run may be stopped at any moment and loses no more than one batch. One process at a time
holds the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from attviz.errors import ArgumentError, FormatError
from attviz.io.join import joined
from attviz.io.lock import FolderLock
from attviz.io.stream import write_safetensors
from attviz.records import Document

_COLUMNS = {"diagonal": 0, "token_ids": 8, "offsets": 16, "special": 1, "details": 0}  # bytes a token; 0: depends
_PRECISIONS: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}


def text_hash(text: str) -> str:
    """A short name for a text, to see on resuming that the data set is still the same."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the index: a document whose data are on the disk."""

    number: int
    num_tokens: int
    num_bytes: int
    text: str


class PartialArchive:
    """A growing archive: a context manager that holds ``NAME.part/`` while documents are appended."""

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, str], *, fresh: bool = False) -> None:
        """Name the archive; the folder is made, or taken up again, on entering.

        Args:
            path: The archive that :meth:`finish` will write.
            settings: What the run was asked for; a run is resumed only with the same. ``"precision"`` is among them.
            fresh: Begin anew even where a stopped run could be resumed.

        Raises:
            ArgumentError: If the precision is neither float16 nor float32.
        """
        precision = settings.get("precision", "float16")
        if precision not in _PRECISIONS:
            raise ArgumentError(f"precision must be 'float16' or 'float32', got {precision!r}.")
        self.path = Path(path)
        self.folder = self.path.with_name(self.path.name + ".part")
        self.settings = dict(settings)
        self._dtype, self._fresh = _PRECISIONS[precision], fresh
        self._entries: list[_Entry] = []
        self._shape: tuple[list[str], int] | None = None
        self._files: dict[str, IO[bytes]] = {}

    @property
    def done(self) -> dict[int, str]:
        """Number and text hash of each document that is on the disk."""
        return {entry.number: entry.text for entry in self._entries}

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the documents so far."""
        return tuple(self._shape[0]) if self._shape else ()

    @property
    def num_heads(self) -> int:
        """Heads of a layer; 0 before the first document."""
        return self._shape[1] if self._shape else 0

    def __enter__(self) -> PartialArchive:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.folder)
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        nothing_to_keep = bool(self._files) and not self._entries
        self._close()
        if nothing_to_keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def append(self, documents: Sequence[tuple[int, Document]], layers: Sequence[str]) -> None:
        """Put documents on the disk, with their place in the data set.

        Raises:
            FormatError: If their layers or heads differ from those before them.
            OSError: If the disk is full; what was appended before is kept.
        """
        entries = []
        try:
            for number, document in documents:
                self._agree(document, layers)
                entries.append(self._write(number, document))
            for file in self._files.values():
                file.flush()
            with (self.folder / "index.jsonl").open("a") as index:
                index.writelines(json.dumps([entry.number, entry.num_tokens, entry.num_bytes, entry.text]) + "\n" for entry in entries)
        except OSError as error:
            kept = f"{len(self._entries)} documents are kept in {self.folder}; free some space and run the same command again"
            raise OSError(error.errno, f"{error.strerror}: {kept}", str(self.folder)) from error
        self._entries += entries

    def finish(
        self, *, layers: Sequence[str], label_names: Sequence[str] | None, model_name: str, settings: Mapping[str, str] | None = None
    ) -> None:
        """Join the parts, in the order of the data set, into the archive; then remove the folder."""
        self._close()
        metadata = {
            "format": "attviz",
            "version": "1",
            "layers": json.dumps(list(layers)),
            "label_names": json.dumps(None if label_names is None else list(label_names)),
            "model_name": json.dumps(model_name),
            "settings": json.dumps(dict(self.settings if settings is None else settings)),
        }
        shape = (len(self._shape[0]), self._shape[1]) if self._shape else (len(layers), 0)
        spans = [(entry.number, entry.num_tokens, entry.num_bytes) for entry in self._entries]
        write_safetensors(self.path, joined(self.folder, spans, shape, self._dtype), metadata)
        self._entries.clear()
        self._lock.release()
        shutil.rmtree(self.folder)

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _begin(self) -> None:
        run, index = self.folder / "run.json", self.folder / "index.jsonl"
        if self._fresh or not run.exists():
            for file in self.folder.glob("*.bin"):
                file.unlink()
            index.write_text("")
            (self.folder / "shape.json").unlink(missing_ok=True)
            run.write_text(json.dumps(self.settings))
        before = _read_json(run)
        if before != self.settings:
            other = sorted(name for name in {*before, *self.settings} if before.get(name) != self.settings.get(name))
            raise ArgumentError(
                f"{self.folder} holds a stopped run with other settings ({', '.join(other)}): was "
                f"{ {name: before.get(name) for name in other} }, now { {name: self.settings.get(name) for name in other} }. "
                "Run with the old settings to resume, or remove the folder to begin anew."
            )
        if (self.folder / "shape.json").exists():
            layers, num_heads = _read_json(self.folder / "shape.json")
            self._shape = (layers, num_heads)
        self._entries = self._trim(index)
        self._files = {name: (self.folder / f"{name}.bin").open("ab") for name in _COLUMNS}

    def _trim(self, index: Path) -> list[_Entry]:
        """Entries whose data are whole; the files are cut to them."""
        sizes = {name: path.stat().st_size if (path := self.folder / f"{name}.bin").exists() else 0 for name in _COLUMNS}
        used = dict.fromkeys(_COLUMNS, 0)
        entries: list[_Entry] = []
        for line in index.read_text().splitlines():
            try:
                entry = _Entry(*json.loads(line))
            except (ValueError, TypeError):
                break
            after = {name: used[name] + self._bytes(name, entry) for name in _COLUMNS}
            if any(after[name] > sizes[name] for name in _COLUMNS):
                break
            entries.append(entry)
            used = after
        for name in _COLUMNS:
            if sizes[name] > used[name]:
                os.truncate(self.folder / f"{name}.bin", used[name])
        index.write_text("".join(json.dumps([entry.number, entry.num_tokens, entry.num_bytes, entry.text]) + "\n" for entry in entries))
        return entries

    def _bytes(self, name: str, entry: _Entry) -> int:
        if name == "details":
            return entry.num_bytes
        if name == "diagonal":
            layers, num_heads = self._shape or ([], 0)
            return entry.num_tokens * len(layers) * num_heads * self._dtype.itemsize
        return entry.num_tokens * _COLUMNS[name]

    def _agree(self, document: Document, layers: Sequence[str]) -> None:
        shape = (list(layers), int(document.diagonal.shape[1]))
        if self._shape is None:
            self._shape = shape
            (self.folder / "shape.json").write_text(json.dumps(shape))
        if shape != self._shape:
            raise FormatError(
                f"{self.path}: all documents must share layers and heads; the run has "
                f"{len(self._shape[0])} layers of {self._shape[1]} heads, "
                f"document {document.name!r} has {len(layers)} layers of {shape[1]} heads. Is it the same model?"
            )

    def _write(self, number: int, document: Document) -> _Entry:
        num_tokens = len(document.tokens)
        if document.diagonal.shape[2] != num_tokens:
            raise FormatError(
                f"{self.path}: document {document.name!r} has {num_tokens} tokens and a diagonal of {document.diagonal.shape[2]}."
            )
        details = _details_of(document)
        columns = {
            "diagonal": document.diagonal.transpose(2, 0, 1).astype(self._dtype),
            "token_ids": np.full(num_tokens, -1) if document.token_ids is None else document.token_ids,
            "offsets": np.full((num_tokens, 2), -1) if document.offsets is None else document.offsets,
            "special": np.full(num_tokens, 2) if document.special is None else document.special,
        }
        for name, column in columns.items():
            stored = np.ascontiguousarray(column, dtype=_dtype_of(name, self._dtype))
            self._files[name].write(stored.tobytes())
        self._files["details"].write(details)
        return _Entry(number, num_tokens, len(details), text_hash(document.text))


def _dtype_of(name: str, precision: np.dtype[Any]) -> np.dtype[Any]:
    return precision if name == "diagonal" else np.dtype("u1") if name == "special" else np.dtype("<i8")


def _details_of(document: Document) -> bytes:
    probabilities = None if document.probabilities is None else [float(value) for value in document.probabilities]
    details = {
        "text": document.text,
        "tokens": list(document.tokens),
        "name": document.name,
        "label": document.label,
        "prediction": document.prediction,
        "probabilities": probabilities,
        "grid": document.grid,
    }
    return json.dumps(details).encode("ascii")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise FormatError(f"{path}: damaged ({error}). Remove the folder {path.parent} to begin anew.") from error
