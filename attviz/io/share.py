"""The growing shard of one process: windows are claimed, recorded with their results, and finished into one file.

A window is done when the journal of the part says so, after its documents (and the states of the metrics) are on disk. The work of a dead
process is finished by the next one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from attviz.errors import FormatError
from attviz.files import Lock, sweep
from attviz.io.claims import Claims, Done
from attviz.io.journal import FILES
from attviz.io.partial import PartialArchive
from attviz.io.shard_names import PIECES, found_shards, shard_path
from attviz.io.stream import StreamedTensor


class GrowingShard:
    """One process's part of a shared run: a context manager that holds the lock of its shard.

    Attributes:
        partial: The archive that documents are appended to.
        label: Distinguishes this shard from the others.
    """

    def __init__(self, archive: Path, settings: Mapping[str, str], label: str | None, window_texts: int, *, documents: bool = True) -> None:
        """Name the run; nothing is touched before entering.

        Args:
            archive: The archive of the run.
            settings: Settings of the run, the same in all processes.
            label: Label of the shard; None numbers shards.
            window_texts: Texts per window.
            documents: Whether documents are kept, not only the states of metrics.
        """
        self.archive, self.settings = archive, dict(settings)
        self._wanted, self._window_texts = label, window_texts
        self._documents = documents
        self.label = ""
        self.partial: PartialArchive
        self._claims: Claims

    def __enter__(self) -> GrowingShard:
        self._claims = Claims(self.archive, self.settings)
        try:
            with self._claims.locked():
                self._claims.release_dead()
                self.label = self._free_label()
                self.partial = self._part(self.label)
                self.partial.__enter__()
                self._claims.add_writer(self.label)
        except BaseException:
            self._claims.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.partial.__exit__(*error)
        finally:
            self._claims.close()

    def take(self, window: int, digest: str) -> bool:
        """Claim a window; False if it is done, or another process has it.

        Raises:
            ArgumentError: If its texts are not those of the run.
        """
        with self._claims.locked():
            return self._claims.take(window, digest, self.label)

    def done(self, windows: Sequence[Done], metrics: Sequence[str | None] | None = None) -> None:
        """Record windows as done: their documents are appended, and the states of the metrics are in these files of the part."""
        note: dict[str, Any] = {"windows": [one.plain() for one in windows]}
        self.partial.note(note if metrics is None else note | {"metrics": list(metrics)})
        with self._claims.locked():
            self._claims.done(windows, self.label)

    def finish(self, total: Mapping[str, int]) -> Path | None:
        """End the pass over the texts: finish this shard, and those of dead processes.

        Args:
            total: Counts over all texts.

        Returns:
            The shard; None if there was nothing to do for this process.
        """
        with self._claims.locked():
            self._claims.total(total)
        own = self._finished(self.partial, self.label, total)
        self.partial.__exit__(None, None, None)
        for part in found_shards(self.archive)[1]:
            self._finish_dead(part.name.removesuffix(".part").removeprefix(f"{self.archive.name}.shard-"), total)
        with self._claims.locked():
            tidy(self.archive)
        return own

    def _finish_dead(self, label: str, total: Mapping[str, int]) -> None:
        with ExitStack() as stack:
            with self._claims.locked():
                if not self._claims.release(label):
                    return  # alive, or another process finishes it
                part = stack.enter_context(self._part(label))
                noted = {plain[0] for note in part.notes() for plain in note[1].get("windows", ())}
                self._claims.free([one.window for one in self._claims.done_by(label) if one.window not in noted], label)
            self._finished(part, label, total)

    def _part(self, label: str) -> PartialArchive:
        return PartialArchive(shard_path(self.archive, label), self.settings | {"shard": label})

    def _free_label(self) -> str:
        """The requested label, with a number appended if it was used before."""
        base = f"{len(self._claims.writers):05d}" if self._wanted is None else self._wanted
        count = 1
        while True:
            label = base if count == 1 else f"{base}.{count}"
            path = shard_path(self.archive, label)
            if label not in self._claims.writers and not path.exists() and not path.with_name(f"{path.name}.part").exists():
                return label
            count += 1

    def _finished(self, part: PartialArchive, label: str, total: Mapping[str, int]) -> Path | None:
        """Finish a part into its shard, up to its last recorded window; without any, the part is removed."""
        noted = [(count, note) for count, note in part.notes() if "windows" in note]
        part.cut_after(noted[-1][0] if noted else 0)
        done = [Done.of(plain) for _, note in noted for plain in note["windows"]]
        if not done:
            return None
        lost = {"truncated": sum(one.cut[0] for one in done), "lost_tokens": sum(one.cut[1] for one in done)}
        told = self.settings | {
            "shard": label,
            "share": json.dumps({"window_texts": self._window_texts, "documents": self._documents}),
            "data": json.dumps(dict(total) | lost),
        }
        names = json.loads(self.settings["label_names"])
        windows = np.array(sorted(one.window for one in done), dtype="<i8")
        starts = np.searchsorted(np.sort(part.numbers), windows * self._window_texts * PIECES).astype("<i8")
        extra = [_in_memory("windows", "I64", windows), _in_memory("window_start", "I64", starts)]
        for place, name in enumerate(noted[-1][1].get("metrics", ())):
            if name is not None:
                extra.append(_in_memory(f"metric-{place}", "U8", np.frombuffer((part.folder / Path(name).name).read_bytes(), np.uint8)))
        part.finish(layers=part.layers, label_names=names, model_name=self.settings["model"], settings=told, extra=extra)
        return part.path


def tidy(archive: Path) -> None:
    """Remove the locks and temporary files that dead processes left next to the shards of an archive."""
    before, after = f".{archive.name}.shard-", re.compile(r"(.+)\.attviz-(lock|[0-9a-f]{16}\.tmp)")
    for entry in sorted(os.listdir(archive.parent)):
        if entry.startswith(before) and (match := after.fullmatch(entry[len(before) :])):
            shard = shard_path(archive, match[1])
            with suppress(FormatError), Lock(shard):  # a living process keeps its own
                sweep(shard, FILES)


def _in_memory(name: str, dtype: str, values: np.ndarray) -> StreamedTensor:
    return StreamedTensor(name, dtype, values.shape, iter([values.tobytes()]))
