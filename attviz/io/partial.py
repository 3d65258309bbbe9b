"""An archive while it is being written: batches are appended in ``NAME.part/`` and joined into one file at the end.

A stopped run continues after its last complete batch if the settings are the same, and is refused otherwise. The folder appears and
disappears in one rename, with its mark (``run.json``) inside; a folder without the mark is never touched.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from attviz.errors import FormatError
from attviz.files import Lock, check_output, discard_folder, new_folder, replacing, sweep, sync_folder
from attviz.io.details import encode_details
from attviz.io.join import joined
from attviz.io.journal import COLUMNS, FILES, Journal
from attviz.io.stopped import Entry, check_same_run, check_sizes, encode_run, entries_of, shape_of
from attviz.io.storage import storage_of
from attviz.io.stream import StreamedTensor, write_safetensors
from attviz.records import Document

VERSION = "2"


class PartialArchive:
    """A growing archive: a context manager that holds the output's lock while documents are appended."""

    def __init__(
        self, path: str | os.PathLike[str], settings: Mapping[str, str], *, resumable: bool = True, overwrite: bool = False
    ) -> None:
        """Name the archive; nothing is touched before entering.

        Args:
            path: The archive that :meth:`finish` will write.
            settings: Settings of the run, including ``"precision"``; a run is resumed only with the same ones.
            resumable: Keep finished work in ``NAME.part/`` for the next run; otherwise in a folder that is removed at the end.
            overwrite: Whether a finished archive of another run may be replaced.

        Raises:
            ArgumentError: If the precision is unknown.
        """
        self._storage = storage_of(settings.get("precision", "float16"))
        self.path = Path(path)
        self.folder = self.path.with_name(self.path.name + ".part")
        self.settings = dict(settings)
        self._resumable, self._overwrite = resumable, overwrite
        self._lock = Lock(self.path)
        self._journal: Journal | None = None
        self._num_windows = 0
        self._spans = array("q")  # number, tokens, bytes of details, of one document after the other
        self._layers: tuple[str, ...] | None = None
        self._num_heads = 0

    @property
    def is_shard(self) -> bool:
        """Whether this is a part of a run of several processes."""
        return "shard" in self.settings

    @property
    def num_batches(self) -> int:
        """Number of batches on disk."""
        return self._open.num_batches

    @property
    def num_windows(self) -> int:
        """Number of windows of texts recorded as done."""
        return self._num_windows

    @property
    def num_documents(self) -> int:
        """Number of documents on disk."""
        return len(self._spans) // 3

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the documents so far."""
        return self._layers or ()

    @property
    def num_heads(self) -> int:
        """Heads per layer; 0 before the first document."""
        return self._num_heads

    @property
    def numbers(self) -> np.ndarray:
        """Indices of the documents in the data set, in the order in which they were appended."""
        return np.array(self._spans, dtype=np.int64)[::3]

    def batches(self) -> Iterator[list[Entry]]:
        """The documents of each batch on disk, in the order in which they were appended."""
        for line in self._open.lines():
            if "sizes" in line:
                yield entries_of(line, self.folder)

    def notes(self) -> list[tuple[int, dict[str, Any]]]:
        """What :meth:`note` wrote, each with the number of batches before it."""
        found, count = [], 0
        for line in self._open.lines():
            count += "sizes" in line
            if "note" in line:
                found.append((count, dict(line["note"])))
        return found

    def note(self, content: Mapping[str, Any]) -> None:
        """Record a note about everything appended so far; it is on disk when this returns."""
        self._check_held()
        self._open.note({"note": dict(content)})
        self._num_windows += len(content.get("windows", ()))

    def cut_after(self, num_batches: int) -> None:
        """Drop all batches after the given number of them; they will be redone."""
        self._check_held()
        self._open.cut_after(num_batches)
        self._read_journal()

    def __enter__(self) -> PartialArchive:
        check_output(self.path)
        self._lock.acquire()
        try:
            sweep(self.path, FILES)
            self._begin()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    def append(self, documents: Sequence[tuple[int, Document]], layers: Sequence[str], contents: Sequence[str] | None = None) -> None:
        """Write a batch to disk: all of its documents or none.

        Args:
            documents: Documents with their indices in the data set.
            layers: Layers of their diagonals.
            contents: A hash of each input, if inputs are not texts.

        Raises:
            FormatError: If layers or heads differ from those before, or a document's tokens from its diagonal.
            OSError: If the disk is full; what was appended before is kept.
        """
        self._check_held()
        line: dict[str, Any] = {}
        if self._layers is None and documents:
            line["layers"] = list(layers)
            line["num_heads"] = int(documents[0][1].diagonal.shape[1])
        columns: dict[str, list[bytes]] = {name: [] for name in COLUMNS}
        entries = []
        for place, (number, document) in enumerate(documents):
            self._agree(document, layers, line.get("num_heads", self._num_heads))
            for name, content in self._encoded(document).items():
                columns[name].append(content)
            entries.append(Entry.of(number, document, len(columns["details"][-1]), None if contents is None else contents[place]))
        line["documents"] = [entry.plain() for entry in entries]
        try:
            self._open.append({name: b"".join(parts) for name, parts in columns.items()}, line)
        except OSError as error:
            kept = f"{self.num_documents} documents are kept in {self.folder}; free some disk space and run the same command again"
            raise OSError(error.errno, f"{error.strerror}: {kept}", str(self.folder)) from error
        self._count(line, entries)

    def finish(
        self,
        *,
        layers: Sequence[str],
        label_names: Sequence[str] | None,
        model_name: str,
        settings: Mapping[str, str] | None = None,
        extra: Sequence[StreamedTensor] = (),
    ) -> None:
        """Join the parts, in the order of the data set, into the archive; then remove the folder.

        Args:
            layers: Layers, if there is no document to tell.
            label_names: One per class.
            model_name: Name of the model.
            settings: Settings to store; None stores those of the run.
            extra: Bytes to store in addition to the documents.

        Raises:
            OSError: If the archive cannot be written; the parts are kept.
        """
        self._check_held()
        self._open.sync()
        metadata = {
            "format": "attviz",
            "version": VERSION,
            "layers": json.dumps(list(layers)),
            "label_names": json.dumps(None if label_names is None else list(label_names)),
            "model_name": json.dumps(model_name),
            "settings": json.dumps(dict(self.settings if settings is None else settings)),
        }
        spans = np.array(self._spans, dtype=np.int64).reshape(-1, 3)
        shape = (len(self._layers or layers), self._num_heads)
        tensors = joined(self.folder, spans, shape, self._storage, keep_numbers=self.is_shard)
        note = "the parts are kept: run the same command again" if self._resumable else ""
        with replacing(self.path, overwrite=self._overwrite, note=note) as file:
            write_safetensors(file, sorted([*tensors, *extra], key=lambda one: -one.item_bytes), metadata)
        self._open.close()
        self._journal = None
        discard_folder(self.folder, self.path, FILES)

    @property
    def _open(self) -> Journal:
        if self._journal is None:
            raise FormatError(f"{self.path}: this archive is not open. Use it as a context manager, and finish it once.")
        return self._journal

    def _check_held(self) -> None:
        if not self._lock.held:
            raise FormatError(f"{self.path}: only the process that opened this archive may write to it; this one was forked, or closed it.")

    def _leave(self) -> None:
        """Close, remove what is empty, and release the lock: each step even if the one before failed."""
        journal, self._journal = self._journal, None
        held = self._lock.held
        try:
            if journal is not None:
                journal.close()
                if held and (not self._resumable or not (journal.num_batches or self._num_windows)):
                    discard_folder(self.folder, self.path, FILES)
        finally:
            self._lock.release()

    def _begin(self) -> None:
        existing = self._resumable and os.path.lexists(self.folder)
        if existing:
            check_same_run(self.folder, self.settings)
        if not existing or not is_result_of(self.path, self.settings):
            check_output(self.path, overwrite=self._overwrite)
        else:
            self._overwrite = True  # killed between writing the archive and removing its parts: the same bytes come again
        if not existing:
            self._make_folder()
        self._journal = Journal(self.folder)
        self._read_journal()

    def _make_folder(self) -> None:
        folder = new_folder(self.path)
        if not self._resumable:
            self.folder = folder
            return
        with replacing(folder / "run.json") as file:
            file.write(encode_run(self.settings))
        os.rename(folder, self.folder)
        sync_folder(self.path.parent)

    def _read_journal(self) -> None:
        self._spans, self._layers, self._num_heads, self._num_windows = array("q"), None, 0, 0
        for line in self._open.lines():
            self._num_windows += len(line.get("note", {}).get("windows", ()))
            if "sizes" in line:
                entries = entries_of(line, self.folder)
                self._count(line, entries)
                check_sizes(line["sizes"], entries, (len(self.layers), self._num_heads, self._storage.dtype.itemsize), self.folder)

    def _count(self, line: Mapping[str, Any], entries: Sequence[Entry]) -> None:
        if "layers" in line:
            self._layers, self._num_heads = shape_of(line, self.folder)
        for entry in entries:
            self._spans.extend((entry.number, entry.num_tokens, entry.num_bytes))

    def _agree(self, document: Document, layers: Sequence[str], num_heads: int) -> None:
        known, shape = tuple(layers) if self._layers is None else self._layers, document.diagonal.shape
        if tuple(layers) != known or shape[:2] != (len(known), num_heads):
            raise FormatError(
                f"{self.path}: all documents must have the same layers and heads; the run has {len(known)} layers of {num_heads} heads, "
                f"document {document.name!r} has {len(layers)} layers of {shape[1]} heads. Is it the same model?"
            )
        if shape[2] != len(document.tokens):
            raise FormatError(f"{self.path}: document {document.name!r} has {len(document.tokens)} tokens but a diagonal of {shape[2]}.")

    def _encoded(self, document: Document) -> dict[str, bytes]:
        count = len(document.tokens)
        columns = {
            "diagonal": (self._storage.encode(document.diagonal.transpose(2, 0, 1)), self._storage.dtype),
            "token_ids": (np.full(count, -1) if document.token_ids is None else document.token_ids, np.dtype("<i8")),
            "offsets": (np.full((count, 2), -1) if document.offsets is None else document.offsets, np.dtype("<i8")),
            "special": (np.full(count, 2) if document.special is None else document.special, np.dtype("u1")),
        }
        encoded = {name: np.ascontiguousarray(values, dtype=dtype).tobytes() for name, (values, dtype) in columns.items()}
        return encoded | {"details": encode_details(document)}


def is_result_of(path: Path, settings: Mapping[str, str]) -> bool:
    """Whether the existing archive is the result of this very run."""
    from attviz.io.archive import ArchiveDocuments

    try:
        found = ArchiveDocuments(path).metadata["settings"]
    except (FormatError, OSError):
        return False
    return all(found.get(name) == value for name, value in settings.items())
