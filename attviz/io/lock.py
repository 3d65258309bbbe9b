"""One process at a time in a folder: the lock goes with its process, however that ends."""

from __future__ import annotations

import os
from pathlib import Path

from attviz.errors import FormatError


class FolderLock:
    """An exclusive lock on ``folder/lock``, held from construction to :meth:`release`.

    Raises:
        FormatError: If another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "lock").open("a+")
        try:
            _lock(self._file.fileno())
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise FormatError(
                f"{folder}: another process (id {holder}) writes to this archive. Wait for it, or choose another output."
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Give the folder back; once is enough, twice does no harm."""
        self._file.close()


try:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
