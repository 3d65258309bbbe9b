"""Metrics of a run that can be stopped: their states are saved and restored together with the documents they have seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attviz.errors import ArgumentError, FormatError, MetricError
from attviz.io.partial import PartialArchive

_SECONDS = 30.0  # between two saved states, at least
_SHARE = 20  # saving takes at most this part of the time


class MetricStates:
    """Saves the states of metrics between batches, and restores them when a stopped run is resumed."""

    def __init__(self, metrics: Sequence[Any], partial: PartialArchive) -> None:
        self._metrics, self._partial = metrics, partial
        self._lasting = all(hasattr(metric, "save_state") and hasattr(metric, "load_state") for metric in metrics)
        self._due = 0.0

    def restore(self) -> None:
        """Go back to the last batch whose states were saved, for metrics and documents alike.

        Raises:
            ArgumentError: If there are documents but a metric cannot be restored.
        """
        if not self._metrics:
            return
        if self._partial.num_batches and not self._lasting:
            names = ", ".join(type(metric).__name__ for metric in self._metrics)
            raise ArgumentError(
                f"{self._partial.folder} holds a stopped run whose metrics ({names}) cannot be restored: "
                "each needs save_state(path) and load_state(path). "
                "Remove the folder to start over, or run without the metric to resume."
            )
        saved = [(count, note["metrics"]) for count, note in self._partial.notes() if "metrics" in note]
        if saved:
            count, files = saved[-1]
            self._load(files)
            self._partial.cut_after(count)
        elif self._partial.num_batches:
            self._partial.cut_after(0)
        if not saved:
            self.batch_done()

    def batch_done(self) -> None:
        """Save the states if they are due."""
        if self._metrics and self._lasting and time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Save the states as of the last batch."""
        started = time.monotonic()
        try:
            files = [self._save(place, metric) for place, metric in enumerate(self._metrics)]
        except MetricError:  # a metric that lasts one step only
            self._lasting = False
            return
        self._partial.note({"metrics": files})
        for path in self._partial.folder.glob("metric-*.safetensors"):
            if path.name not in files:
                with suppress(OSError):
                    path.unlink()
        finished = time.monotonic()
        self._due = finished + max(_SECONDS, _SHARE * (finished - started))

    def _save(self, place: int, metric: Any) -> str | None:
        if getattr(metric, "_update_count", None) == 0:
            return None  # nothing seen yet
        path = self._partial.folder / f"metric-{self._partial.num_batches}-{place}.safetensors"
        metric.save_state(path)
        return path.name

    def _load(self, files: Any) -> None:
        if not isinstance(files, list) or len(files) != len(self._metrics):
            raise FormatError(f"{self._partial.folder}: the saved metrics are not those of this run. Remove the folder to start over.")
        for name, metric in zip(files, self._metrics, strict=True):
            if name is None:
                metric.reset()
            elif not isinstance(name, str) or Path(name).name != name:
                raise FormatError(f"{self._partial.folder}: the saved metrics cannot be read. Remove the folder to start over.")
            else:
                metric.load_state(self._partial.folder / name)
