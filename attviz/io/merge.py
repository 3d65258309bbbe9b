"""Shards joined into one archive, and the states of their metrics into metrics."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from attviz.errors import ArgumentError
from attviz.files import check_output, replacing
from attviz.io.archive import ArchiveDocuments
from attviz.io.claims import claims_path
from attviz.io.partial import PartialArchive
from attviz.io.shards import ShardedDocuments, open_shards
from attviz.io.share import tidy

_BATCH = 64


def merge(path: str | os.PathLike[str], *, overwrite: bool = False, metrics: Sequence[Any] = (), remove: bool = False) -> Path:
    """Join the shards of an archive, in memory that grows only by three numbers per document.

    The result is byte for byte the archive that a single process would have written.

    Args:
        path: The archive.
        overwrite: Whether an existing archive may be replaced.
        metrics: Metrics constructed as in the run, in the same order: the states of all shards are pooled into them.
        remove: Remove the shards once the archive is complete.

    Raises:
        FormatError: If texts are missing, or the shards come from different runs.
        ArgumentError: If the archive exists and ``overwrite`` is False; if the metrics are not those of the run.
        OSError: If it cannot be written.
    """
    check_output(path, overwrite=overwrite)
    analysis = open_shards(path)
    documents = analysis.documents
    assert isinstance(documents, ShardedDocuments)
    pool_metrics(documents.shards, metrics)
    with PartialArchive(path, {"precision": documents.precision}, resumable=False, overwrite=overwrite) as growing:
        waiting = enumerate(documents)
        while batch := list(islice(waiting, _BATCH)):
            growing.append(batch, analysis.layers)
        growing.finish(
            layers=analysis.layers, label_names=analysis.label_names, model_name=analysis.model_name, settings=dict(analysis.settings)
        )
    if remove:
        remove_shards(documents.shards, Path(path))
    return Path(path)


def remove_shards(shards: Sequence[ArchiveDocuments], path: Path) -> None:
    """Remove shards that were merged, and the claims of their run."""
    for shard in shards:
        shard.path.unlink(missing_ok=True)
    tidy(path)
    claims_path(path).unlink(missing_ok=True)


def pool_metrics(shards: Sequence[ArchiveDocuments], metrics: Sequence[Any]) -> None:
    """Pool the states of all shards into fresh metrics.

    Raises:
        ArgumentError: If a shard has other metrics, or none.
        FormatError: If a state is damaged.
        MetricError: If a state belongs to another metric or to other options.
    """
    if not metrics:
        return
    for shard in shards:
        held = sum(name.startswith("metric-") for name in shard.file.tensors)
        if held != len(metrics):
            raise ArgumentError(f"{shard.path}: holds the states of {held} metrics, and {len(metrics)} were given. Give those of the run.")
        for place, metric in enumerate(metrics):
            merge_saved_state(metric, shard.file.rows(f"metric-{place}", 0, shard.file.tensors[f"metric-{place}"].shape[0]).tobytes())


def merge_saved_state(metric: Any, state: bytes) -> None:
    """Merge what another process wrote with ``metric.save_state`` into a metric.

    Raises:
        FormatError: If the state is damaged.
        MetricError: If it belongs to another metric or to other options.
    """
    with tempfile.TemporaryDirectory(prefix="attviz-") as folder:
        path = Path(folder) / "state"
        with replacing(path) as file:
            file.write(state)
        seen = copy.deepcopy(metric)
        seen.reset()
        seen.load_state(path)
    metric.merge_state(seen)
