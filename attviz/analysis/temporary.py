"""A folder that is removed when the work in it is done or, once kept, when it is no longer referenced."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from types import TracebackType


class TemporaryFolder:
    """A new empty folder; as a context it is removed at the end unless :meth:`keep` was called inside."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="attviz-"))
        self._kept = False
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def keep(self) -> TemporaryFolder:
        """Let the folder outlive its context, for as long as this object lives."""
        self._kept = True
        return self

    def __enter__(self) -> TemporaryFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._kept:
            self._remove()
