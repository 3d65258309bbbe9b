"""Who does what in a run of several processes: a small journal next to the archive, ``NAME.claims``, in which windows of texts are claimed.

A process claims a window before it works on it and records when it is done. Windows that a dead process claimed but did not finish become
free again; those it finished are known from its own journal, which is written first. So any number of processes may start, die and restart.
Every change is made under a lock on the file, which is held for milliseconds.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attviz.errors import ArgumentError, FormatError
from attviz.files import Lock, open_regular
from attviz.files.lock import lock_descriptor, unlock_descriptor
from attviz.io.journal import parsed_line, written_line
from attviz.io.stopped import different

_MARK = {"attviz": "claims of a run", "version": 1}
_PATIENCE = 120.0  # seconds until a lock that is held for milliseconds is taken for broken
_LONGEST_LINE = 16 << 20
_BUSY = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK}


@dataclass(frozen=True, slots=True)
class Done:
    """A window that is done.

    Attributes:
        window: Number of the window.
        digest: Hash of its texts, to check that a later process reads the same ones.
        cut: Number of its texts that were truncated, and of tokens they lost.
    """

    window: int
    digest: str
    cut: tuple[int, int] = (0, 0)

    def plain(self) -> list[Any]:
        """As plain data for JSON."""
        return [self.window, self.digest, *self.cut]

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Done:
        """Undo :meth:`plain`."""
        return cls(int(plain[0]), str(plain[1]), (int(plain[2]), int(plain[3])))


def claims_path(path: str | os.PathLike[str]) -> Path:
    """Path of the claims of a run.

    Example:
        >>> claims_path("run.attviz").name
        'run.attviz.claims'
    """
    return Path(path).with_name(f"{Path(path).name}.claims")


def windows_noted(part: Path) -> list[Done]:
    """The windows that the process of a part finished, from its journal; the part is not changed."""
    found: list[Done] = []
    try:
        with os.fdopen(open_regular(part / "journal", "a part of a stopped run"), "rb") as file:
            while (line := parsed_line(file.readline(_LONGEST_LINE))) is not None:
                found += (Done.of(plain) for plain in line.get("note", {}).get("windows", ()))
    except FileNotFoundError:
        return []
    return found


class Claims:
    """The claims of one run, shared by its processes; use inside :meth:`locked`."""

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, str]) -> None:
        """Open or create the file.

        Args:
            path: The archive of the run.
            settings: Settings of the run, the same for all its processes.

        Raises:
            ArgumentError: If the claims belong to another run (the message names the difference), or the file is not ours.
            FormatError: If it is not a regular file.
        """
        self.archive, self.path = Path(path), claims_path(path)
        self.settings = dict(settings)
        self.writers: list[str] = []
        self._claimed: dict[int, str] = {}
        self._done: dict[int, Done] = {}
        self._by: dict[int, str] = {}
        self._total: dict[str, int] | None = None
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.fdopen(open_regular(self.path, "the claims of a run", flags), "r+b", buffering=0)
        self._read = 0
        try:
            with self.locked():
                pass
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; closing it twice is harmless."""
        self._file.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, with claims that are up to date; no other process can change them meanwhile."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                lock_descriptor(self._file.fileno())
                break
            except OSError as error:
                if error.errno not in _BUSY or time.monotonic() > deadline:
                    raise FormatError(
                        f"{self.path}: cannot be locked ({error.strerror}). Does this file system have locks? "
                        "Else give each process a folder of its own, --shard I/N, and bring the shards together for attviz merge."
                    ) from error
                time.sleep(0.005)
        try:
            self._catch_up()
            yield
        finally:
            unlock_descriptor(self._file.fileno())

    def add_writer(self, label: str) -> None:
        """Register a process, which already holds the lock of its shard."""
        self._append({"writer": label})

    def take(self, window: int, digest: str, label: str) -> bool:
        """Claim a window for a process, unless it is done or a living process has it.

        Raises:
            ArgumentError: If the window was done with other texts.
        """
        done = self._done.get(window)
        if done is not None:
            if done.digest != digest:
                raise ArgumentError(
                    f"{self.path}: another run: the texts of window {window} have changed since they were analysed. "
                    f"Run with the old data to continue, or remove {self.path.name} and the shards next to it to start over."
                )
            return False
        owner = self._claimed.get(window)
        if owner is not None and not self.release(owner):
            return False
        self._append({"claim": window, "writer": label})
        return True

    def done(self, windows: Sequence[Done], label: str) -> None:
        """Record that windows of a process are on disk."""
        self._append({"done": [one.plain() for one in windows], "writer": label})

    def total(self, counts: Mapping[str, int]) -> None:
        """Record what a whole pass over the texts counted.

        Raises:
            ArgumentError: If another process counted differently.
        """
        if self._total is not None and self._total != dict(counts):
            raise ArgumentError(
                f"{self.path}: this process read {counts.get('texts')} texts, another one {self._total.get('texts')}. "
                "Give all processes the same data."
            )
        if self._total is None:
            self._append({"total": dict(counts)})

    def release_dead(self) -> None:
        """Free what dead processes claimed but did not finish, and what was written to shards that no longer exist."""
        for label in self.writers:
            self.release(label)

    def release(self, label: str) -> bool:
        """Free what a process claimed but did not finish, if it is dead; returns whether it is."""
        shard = self._shard(label)
        part = shard.with_name(f"{shard.name}.part")
        undone = [window for window, owner in self._claimed.items() if owner == label]
        if (shard.exists() and not part.exists() and not undone) or self.is_alive(label):
            return False
        noted = [one for one in windows_noted(part) if one.window not in self._done]
        if noted:
            self.done(noted, label)
        gone = [] if shard.exists() or part.exists() else [one.window for one in self.done_by(label)]
        self.free(gone + [window for window, owner in self._claimed.items() if owner == label], label)
        return True

    def free(self, windows: Sequence[int], label: str) -> None:
        """Free windows of a process for another one."""
        if windows:
            self._append({"free": list(windows), "writer": label})

    def done_by(self, label: str) -> list[Done]:
        """The windows that a process finished."""
        return [self._done[window] for window, by in self._by.items() if by == label]

    def is_alive(self, label: str) -> bool:
        """Whether the process of a shard still holds its lock."""
        lock = Lock(self._shard(label))
        try:
            lock.acquire()
        except FormatError:
            return True
        lock.release()
        return False

    def _shard(self, label: str) -> Path:
        return self.archive.with_name(f"{self.archive.name}.shard-{label}")

    def _catch_up(self) -> None:
        """Read what others wrote; under the lock, an incomplete line was cut off by a kill."""
        self._file.seek(self._read)
        raw = self._file.read()
        place = 0
        while (end := raw.find(b"\n", place)) >= 0:
            line = parsed_line(raw[place : end + 1])
            if line is None:
                raise ArgumentError(f"{self.path}: not the claims of a run of attviz, or damaged. Move it away to start over.")
            if self._read == 0 and place == 0:
                self._check_head(line)
            else:
                self._apply(line)
            place = end + 1
        self._read += place
        if self._read == 0 and raw and not self._is_torn_head(raw):
            raise ArgumentError(f"{self.path}: not the claims of a run of attviz. Move it away, or choose another output.")
        if place < len(raw):
            os.ftruncate(self._file.fileno(), self._read)
        if self._read == 0:
            self._append(_MARK | {"settings": self.settings})

    def _is_torn_head(self, raw: bytes) -> bool:
        """Whether this is the beginning of a first line, of which a kill or a full disk left no more."""
        head = _MARK | {"settings": self.settings}
        return written_line(head).startswith(raw) or raw[9:].startswith(json.dumps(_MARK)[:-1].encode())

    def _check_head(self, line: Mapping[str, Any]) -> None:
        if {name: line.get(name) for name in _MARK} != _MARK or not isinstance(line.get("settings"), dict):
            raise ArgumentError(f"{self.path}: not the claims of a run of attviz. Move it away, or choose another output.")
        if told := different(line["settings"], self.settings):
            raise ArgumentError(
                f"{self.path} belongs to a different run ({told}). Run the same command as before to continue, or remove "
                f"{self.path.name} and the shards next to it to start over."
            )

    def _append(self, line: Mapping[str, Any]) -> None:
        content = written_line(line)
        os.lseek(self._file.fileno(), self._read, os.SEEK_SET)
        view = memoryview(content)
        while view:
            view = view[os.write(self._file.fileno(), view) :]
        os.fsync(self._file.fileno())
        first, self._read = self._read == 0, self._read + len(content)
        if not first:
            self._apply(json.loads(content[9:]))

    def _apply(self, line: Mapping[str, Any]) -> None:
        label = line.get("writer")
        if "claim" in line:
            self._claimed[line["claim"]] = str(label)
        elif "done" in line:
            for plain in line["done"]:
                one = Done.of(plain)
                self._done[one.window], self._by[one.window] = one, str(label)
                self._claimed.pop(one.window, None)
        elif "free" in line:
            for window in line["free"]:
                if self._claimed.get(window) == label:
                    del self._claimed[window]
                if self._by.get(window) == label:
                    del self._by[window], self._done[window]
        elif "total" in line:
            self._total = {str(name): int(count) for name, count in line["total"].items()}
        elif label is not None:
            self.writers.append(str(label))
