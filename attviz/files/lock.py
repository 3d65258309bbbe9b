"""One holder at a time, across threads and processes: a lock that ends with its process, however the process ends.

The lock is ``flock`` on ``.NAME.attviz-lock``. After locking, a process checks that the name still refers to the file it locked; only a
holder removes the file, so two holders would need two files under one name. (filelock 4.3 never removes its file and does not say who
holds it; older versions differ.)
"""

from __future__ import annotations

import errno
import os
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from attviz.errors import FormatError
from attviz.files.kinds import kind_of
from attviz.files.temporary import stem_of

_SIGN = b"attviz lock, process "
_BUSY = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK}
_held: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """The right to write one archive; a context manager.

    Args:
        target: The archive; the lock file is next to it.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{stem_of(target)}.attviz-lock")
        self._descriptor: int | None = None
        self._owner = 0

    @property
    def held(self) -> bool:
        """Whether this process holds it: a forked child does not hold what its parent holds."""
        return self._descriptor is not None and self._owner == os.getpid()

    def acquire(self) -> Lock:
        """Take the lock, without waiting.

        Raises:
            FormatError: If it is held, a file that is not ours has its name, or the file system has no locks.
            OSError: If the file cannot be created.
        """
        if self._descriptor is not None:
            raise FormatError(f"{self.target}: this lock is already held.")
        while not self._try():
            pass  # its holder removed the file between our opening it and our locking it
        _held.add(self)
        return self

    def release(self) -> None:
        """Release the lock; doing so again, or in a forked child, has no effect."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is None or self._owner != os.getpid():
            return
        try:
            if os.name == "posix":  # elsewhere an open file cannot be removed
                with suppress(OSError):
                    os.unlink(self.path)
            unlock_descriptor(descriptor)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Lock:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _try(self) -> bool:
        """Whether the lock was taken; False if the file is not the one under the name any more."""
        descriptor = self._open()
        try:
            self._check_ours(descriptor)
            self._lock(descriptor)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(self.path)):
                    os.ftruncate(descriptor, 0)
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    os.write(descriptor, _SIGN + str(os.getpid()).encode())
                    self._descriptor, self._owner = descriptor, os.getpid()
                    return True
        finally:
            if self._descriptor != descriptor:
                os.close(descriptor)
        return False

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            return os.open(self.path, flags, 0o666)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
                raise FormatError(f"{self.path}: is not a lock of attviz. Move it away, or choose another output.") from error
            raise

    def _check_ours(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        content = b"" if kind_of(found.st_mode) else _beginning(descriptor)
        if kind_of(found.st_mode) is not None or not (content.startswith(_SIGN) or _SIGN.startswith(content)):
            raise FormatError(f"{self.path}: is not a lock of attviz. Move it away, or choose another output.")

    def _lock(self, descriptor: int) -> None:
        try:
            lock_descriptor(descriptor)
        except OSError as error:
            if error.errno not in _BUSY:
                raise FormatError(
                    f"{self.path}: this file system has no locks ({error.strerror}), so two writers could damage each other's work. "
                    "Write to a local disk and move the archive."
                ) from error
            holder = _beginning(descriptor).removeprefix(_SIGN).decode("ascii", "replace").strip() or "unknown"
            raise FormatError(
                f"{self.target}: another process (id {holder}) is writing to this archive. Wait for it, or choose another output."
            ) from error

    def _forget(self) -> None:
        """In a forked child: close our copy, so that the lock ends with the parent."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def _beginning(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 64)


def _after_fork() -> None:
    for lock in list(_held):
        lock._forget()
    _held.clear()


try:
    import fcntl

    os.register_at_fork(after_in_child=_after_fork)

    def lock_descriptor(descriptor: int) -> None:
        """Lock an open file at once, or raise OSError."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock_descriptor(descriptor: int) -> None:
        """Unlock it, for every process that has this open file."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)

except ImportError:  # Windows
    import msvcrt

    def lock_descriptor(descriptor: int) -> None:
        """Lock one byte far beyond the content, which others may still read."""
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

    def unlock_descriptor(descriptor: int) -> None:
        """Unlock it."""
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
