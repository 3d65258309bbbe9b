"""Which windows of a data set one process takes, and how it marks them as done."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from attviz.analysis.encoding import Source
from attviz.analysis.fingerprint import signal_hash
from attviz.analysis.text_counts import TextCounts
from attviz.errors import ArgumentError, MetricError
from attviz.io.claims import Done
from attviz.io.share import GrowingShard

_SECONDS = 30.0  # between two saved states, at least
_SHARE = 20  # saving takes at most this part of the time


class Windows(Protocol):
    """Decides which windows of texts this process works on, and records those that are done."""

    def take(self, window: int, sources: Sequence[Source]) -> bool:
        """Whether this process works on the window."""

    def done(self, window: int) -> None:
        """Record that everything in the window is in the archive."""


class AllWindows:
    """A single process takes all windows."""

    def take(self, window: int, sources: Sequence[Source]) -> bool:
        """Always."""
        return True

    def done(self, window: int) -> None:
        """Nothing to record."""


class ClaimedWindows:
    """The windows that this process could claim; with metrics, a window is done when the states that include it are saved."""

    def __init__(self, shard: GrowingShard, metrics: Sequence[Any], counts: TextCounts, share: tuple[int, int] | None) -> None:
        """Begin.

        Args:
            shard: Where claims and documents are written.
            metrics: Streaming metrics; their states are kept in the shard.
            counts: Counts what is cut.
            share: (index, count) takes every count-th window; None takes whatever no other process has.

        Raises:
            ArgumentError: If a metric cannot be saved, so that the shares could not be joined.
        """
        self._shard, self._metrics, self._counts, self._share = shard, metrics, counts, share
        self._digests: dict[int, str] = {}
        self._cut_before = (0, 0)
        self._waiting: list[Done] = []
        self._due = 0.0
        for metric in metrics:
            if not (hasattr(metric, "save_state") and hasattr(metric, "load_state")):
                raise ArgumentError(
                    f"metrics: {type(metric).__name__} cannot be pooled over several processes: it needs save_state(path) and "
                    "load_state(path), as the streaming metrics of attviz.metrics have."
                )

    def take(self, window: int, sources: Sequence[Source]) -> bool:
        """Claim the window, if it is in our share and no other process has it or did it."""
        if self._share is not None and window % self._share[1] != self._share[0]:
            return False
        digest = _digest(sources)
        if not self._shard.take(window, digest):
            return False
        self._digests[window] = digest
        self._cut_before = (self._counts.truncated, self._counts.lost_tokens)
        return True

    def done(self, window: int) -> None:
        """Record it, together with the states of the metrics when they are due."""
        cut = (self._counts.truncated - self._cut_before[0], self._counts.lost_tokens - self._cut_before[1])
        self._cut_before = (self._counts.truncated, self._counts.lost_tokens)
        self._waiting.append(Done(window, self._digests.pop(window), cut))
        if not self._metrics or time.monotonic() >= self._due:
            self._note()

    def finish(self) -> Path | None:
        """End the pass; returns the shard of this process, or None if it had nothing to do."""
        if self._waiting:
            self._note()
        counts = self._counts.as_dict()
        return self._shard.finish({name: counts[name] for name in ("texts", "empty", "repeated")})

    def _note(self) -> None:
        started = time.monotonic()
        files = self._saved() if self._metrics else None
        self._shard.done(self._waiting, files)
        self._waiting = []
        for path in self._shard.partial.folder.glob("metric-*.safetensors"):
            if path.name not in (files or ()):
                with suppress(OSError):
                    path.unlink()
        finished = time.monotonic()
        self._due = finished + max(_SECONDS, _SHARE * (finished - started))

    def _saved(self) -> list[str]:
        names = [f"metric-{self._shard.partial.num_windows}-{place}.safetensors" for place in range(len(self._metrics))]
        for name, metric in zip(names, self._metrics, strict=True):
            try:
                metric.save_state(self._shard.partial.folder / name)
            except MetricError as error:
                raise ArgumentError(f"metrics: {error} It cannot be pooled over several processes.") from error
        return names


def _digest(sources: Sequence[Source]) -> str:
    """A short name for the texts of a window with their names and classes."""
    seen = hashlib.sha256()
    for source in sources:
        text = source.text if isinstance(source.text, str) else signal_hash(source.text)
        for part in (text, source.name, str(source.label)):
            raw = part.encode("utf-8", "surrogatepass")
            seen.update(f"{len(raw)}\n".encode() + raw)
    return seen.hexdigest()[:16]
