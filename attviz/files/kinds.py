"""What is at a path, and whether it may be read or replaced: checked before any work is done or memory is allocated."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from attviz.errors import ArgumentError, FormatError

_SPARSE_BYTES, _SPARSE_RATIO = 64 << 20, 64
_MARK, _MARKED_BYTES = b'"attviz', 1 << 16
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a symbolic link"),
)


def kind_of(mode: int) -> str | None:
    """Name the kind of file; None for a regular one.

    Example:
        >>> kind_of(os.stat("/").st_mode), kind_of(os.stat(os.devnull).st_mode), kind_of(os.stat(__file__).st_mode)
        ('a folder', 'a character device', None)
    """
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)


def check_input(path: str | os.PathLike[str], what: str = "a file", *, max_bytes: int | None = None) -> os.stat_result:
    """Refuse what cannot be read as a file of ordinary size; links are followed.

    Args:
        path: The file to read.
        what: What it should be, for the message.
        max_bytes: Largest size accepted.

    Raises:
        FormatError: If it is a folder, a device, a FIFO or a socket, a dangling link, a sparse file, or too large.
        FileNotFoundError: If there is nothing at the path.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise FormatError(f"{path}: is a link to {os.readlink(path)}, which does not exist.") from None
        raise FileNotFoundError(f"{path}: no such file.") from None
    except OSError as error:  # a loop of links, a name that is too long
        raise FormatError(f"{path}: cannot be opened: {error.strerror}.") from error
    except ValueError as error:  # a NUL character in the name
        raise FormatError(f"{path!r}: not a path: {error}.") from error
    if (kind := kind_of(found.st_mode)) is not None:
        raise FormatError(f"{path}: is {kind}, not {what}. Name a regular file.")
    allocated = getattr(found, "st_blocks", None)
    if allocated is not None and found.st_size > _SPARSE_BYTES and found.st_size > _SPARSE_RATIO * 512 * allocated:
        raise FormatError(f"{path}: is a sparse file ({found.st_size} bytes, of which {512 * allocated} are on disk), not {what}.")
    if max_bytes is not None and found.st_size > max_bytes:
        raise FormatError(f"{path}: has {found.st_size} bytes, more than max_bytes={max_bytes}. Split the file, or raise max_bytes.")
    return found


def open_regular(path: str | os.PathLike[str], what: str = "a file", flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file, opened without waiting for a FIFO's other end and checked again once open.

    Raises:
        FormatError: If it is not a regular file.
        OSError: If it cannot be opened.
    """
    for name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK", "O_NOCTTY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags, 0o666)
    if (kind := kind_of(os.fstat(descriptor).st_mode)) is not None:
        os.close(descriptor)
        raise FormatError(f"{path}: is {kind}, not {what}. Name a regular file.")
    return descriptor


def check_output(path: str | os.PathLike[str], *, inputs: Iterable[str | os.PathLike[str]] = (), overwrite: bool | None = None) -> Path:
    """Refuse an output that could not, or must not, be written; creates its folder.

    Args:
        path: The file to write.
        inputs: Files that are read; the output may not be one of them.
        overwrite: For an archive, whether an existing one may be replaced; a file without our mark never is. None for outputs that can be
            recreated at will (pages, tables, figures), which replace any regular file.

    Raises:
        ArgumentError: If it is an input, a device or a folder, or exists and may not be replaced.
        OSError: If its folder cannot be created or written to.
    """
    target = Path(path)
    if target.name in ("", ".."):
        raise ArgumentError(f"the output must name a file, got {str(path)!r}.")
    for source in inputs:
        if _same(source, target):
            raise ArgumentError(f"{target}: the output is the input {source}, which would be lost. Choose another output.")
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_target(target, overwrite)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(13, "the folder cannot be written to; choose another output", str(target.parent))
    return target


def _check_target(target: Path, overwrite: bool | None) -> None:
    try:
        found = os.lstat(target)
        if stat.S_ISLNK(found.st_mode):
            found = os.stat(target)
    except FileNotFoundError:
        return  # a link to nothing is replaced; nothing behind it is made
    except OSError as error:
        raise ArgumentError(f"{target}: cannot be written: {error.strerror}.") from error
    if (kind := kind_of(found.st_mode)) is not None:
        raise ArgumentError(f"{target}: is {kind}, but attviz replaces regular files only. Choose another output.")
    if overwrite is False:
        raise ArgumentError(f"{target}: already exists. Choose another output, or allow replacing it with --overwrite (overwrite=True).")
    if overwrite and found.st_size and not _is_marked(target):
        raise ArgumentError(
            f"{target}: was not written by attviz, which replaces archives of its own only. Choose another output, or remove it."
        )


def _is_marked(path: Path) -> bool:
    """Whether a file says at its beginning that we wrote it: archives name their format there, as states and statistics do."""
    descriptor = open_regular(path, "an archive")
    try:
        return _MARK in os.read(descriptor, _MARKED_BYTES)
    finally:
        os.close(descriptor)


def _same(one: str | os.PathLike[str], other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
