"""Names that only attviz uses, and their removal: files left by dead processes are removed, and nothing else."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_LONGEST = 200  # bytes of the target's name that fit beside our mark in the 255 of a file system
_MARK = re.compile(r"\.attviz-[0-9a-f]{16}\.tmp")


def stem_of(target: Path) -> str:
    """The prefix of our names next to a target: its own name, or a hash of one that is too long."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()[:32]


def fresh_name(target: Path) -> Path:
    """An unguessable name next to the target.

    Example:
        >>> bool(re.fullmatch(r"[.]run[.]attviz[.]attviz-[0-9a-f]{16}[.]tmp", fresh_name(Path("run.attviz")).name))
        True
    """
    return target.with_name(f".{stem_of(target)}.attviz-{secrets.token_hex(8)}.tmp")


def new_folder(target: Path) -> Path:
    """Make an empty private folder next to the target; call it while the target is locked."""
    folder = fresh_name(target)
    os.mkdir(folder, 0o700)
    return folder


def discard_folder(folder: Path, target: Path, names: Iterable[str]) -> None:
    """Remove our folder: rename it first, so that no partial folder is ever found under its name; keep what is not ours.

    Args:
        folder: A folder that carries our mark.
        target: The file it is next to.
        names: Patterns of our files in it.

    Raises:
        OSError: If it cannot be renamed.
    """
    away = fresh_name(target)
    os.rename(folder, away)
    if not _emptied(away, tuple(names)):
        with suppress(OSError):
            os.rename(away, folder)  # somebody else's file is in it: it keeps its place


def _emptied(folder: Path, names: tuple[str, ...]) -> bool:
    for entry in sorted(os.listdir(folder)):
        path = folder / entry
        if any(path.match(name) for name in names) or _MARK.search(entry):
            with suppress(OSError):
                os.unlink(path)  # a symbolic link itself goes, not what it points at; a folder stays
    try:
        os.rmdir(folder)
    except OSError:
        return False
    return True


def sweep(target: Path, names: Iterable[str] = ()) -> None:
    """Remove what dead writers of this target left: unlocked files and, if the target is locked, folders.

    Args:
        target: The file that is about to be written.
        names: Patterns of our files inside such folders; none leaves folders alone.
    """
    for path in _leftovers(target):
        mode = os.lstat(path).st_mode if os.path.lexists(path) else 0
        if stat.S_ISREG(mode):
            _remove_if_dead(path)
        elif stat.S_ISDIR(mode) and names:
            _emptied(path, tuple(names))


def _leftovers(target: Path) -> Iterator[Path]:
    before = f".{stem_of(target)}"
    try:
        entries = os.listdir(target.parent)
    except OSError:
        return
    for entry in entries:
        if entry.startswith(before) and _MARK.fullmatch(entry[len(before) :]):
            yield target.parent / entry


def _remove_if_dead(path: Path) -> None:
    """A living writer holds a lock on its file."""
    from attviz.files.lock import lock_descriptor

    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            lock_descriptor(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                os.unlink(path)
        finally:
            os.close(descriptor)
