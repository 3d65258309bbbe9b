"""How attviz writes every file: to a temporary file in the same folder, synced, renamed; then the folder is synced."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TextIO

from attviz.files.kinds import check_output
from attviz.files.lock import lock_descriptor
from attviz.files.temporary import fresh_name, sweep

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}  # folders that cannot be synced, as on Windows


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool | None = None, note: str = "") -> Iterator[IO[bytes]]:
    """A file to write to; if the block succeeds it replaces ``path``, otherwise nothing has changed.

    Args:
        path: The output; a symbolic link is itself replaced; its target stays as it is.
        overwrite: As in :func:`check_output`.
        note: What else to tell the user when the disk is full, after saying that the old file is unchanged.

    Yields:
        A seekable binary file.

    Raises:
        ArgumentError: If the output is a device, a folder, or exists and may not be replaced.
        OSError: If it cannot be written; ``path`` is then as it was.
    """
    target, owner = check_output(path, overwrite=overwrite), os.getpid()
    sweep(target)
    try:
        descriptor, beside = _beside(target)
    except OSError as error:
        raise _told(error, target, note) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if os.getpid() == owner:
            check_output(target, overwrite=overwrite)
            os.replace(beside, target)
            sync_folder(target.parent)
    except OSError as error:
        if error.filename is not None and not _names(error, beside):
            raise  # of something that the block read
        raise _told(error, target, note) from error
    finally:
        if os.getpid() == owner:  # a child that was forked inside the block leaves the file to its parent
            with suppress(OSError):
                os.unlink(beside)  # after the rename there is nothing under this name


@contextmanager
def replacing_text(path: str | os.PathLike[str], *, errors: str = "strict", newline: str | None = "\n") -> Iterator[TextIO]:
    """:func:`replacing` for UTF-8 text.

    Args:
        path: The output.
        errors: How to treat characters that UTF-8 cannot encode, as in ``open``.
        newline: How lines end, as in ``open``; the default is the same on every system.

    Yields:
        A text file.
    """
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, newline=newline)
        try:
            yield text
            text.flush()
        finally:
            with suppress(ValueError, OSError):
                text.detach()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def _beside(target: Path) -> tuple[int, Path]:
    """A new file next to the target with the target's mode, which no other process can have opened and no sweep removes."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    before = _existing(target)
    while True:
        beside = fresh_name(target)
        descriptor = os.open(beside, flags, 0o600 if before is not None else 0o666)
        try:
            with suppress(OSError):  # a file system without locks
                lock_descriptor(descriptor)
            if before is not None and os.name == "posix":
                if before.st_uid != os.geteuid() or before.st_gid != os.getegid():
                    with suppress(OSError):  # only root may give a file away
                        os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            if os.path.lexists(beside):
                return descriptor, beside
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(beside)
            raise
        os.close(descriptor)  # swept before we had locked it


def _existing(target: Path) -> os.stat_result | None:
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _names(error: OSError, path: Path) -> bool:
    return isinstance(error.filename, (str, bytes, os.PathLike)) and Path(os.fsdecode(error.filename)) == path


def _told(error: OSError, target: Path, note: str) -> OSError:
    """The same error, with the file that could not be written and the state of the old one."""
    left = "the existing file is unchanged" if os.path.lexists(target) else "nothing was written"
    reason = error.strerror or str(error)
    return OSError(error.errno or errno.EIO, f"{reason}: {left}{'; ' + note if note else ''}", str(target))
