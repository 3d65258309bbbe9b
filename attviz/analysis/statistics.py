"""Statistics of a corpus without an archive: only metrics, whose memory and files do not grow with the number of texts.

The result is one file of every metric's state, ``NAME.HeadStatistics.safetensors`` and so on, which the metric's ``load_state`` reads,
and ``NAME`` itself, written last, which describes the run and counts the texts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from attviz import metrics as all_metrics
from attviz.analysis.encoding import WINDOW
from attviz.analysis.fingerprint import data_settings, run_settings
from attviz.analysis.run import cutting_of, progress_bar, settings_of, tell
from attviz.analysis.runner import TextRunner
from attviz.analysis.share import ClaimedWindows
from attviz.analysis.sources import sources_of
from attviz.analysis.text_counts import TextCounts
from attviz.errors import ArgumentError, FormatError
from attviz.files import check_input, check_output, replacing
from attviz.hooks.session.recorder import as_metrics
from attviz.io.archive import ArchiveDocuments
from attviz.io.merge import pool_metrics, remove_shards
from attviz.io.shards import check_shard, complete_shards, holds_documents, joined_settings
from attviz.io.share import GrowingShard
from attviz.selecting import Layers, listed

_MARK = {"attviz": "statistics", "version": 1}
_MOST_REMEMBERED = 500_000  # texts, to see which come again


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """The result of :func:`accumulate`: what was measured over a corpus.

    Attributes:
        metrics: Streaming metrics by the name of their class, with the state that the run left.
        model_name: Hub id or folder of the model.
        settings: Settings of the run, as text; ``settings["data"]`` counts texts as JSON.
    """

    metrics: Mapping[str, Any]
    model_name: str
    settings: Mapping[str, str]


def accumulate(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    metrics: Any,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    long: str = "truncate",
    overlap: int = 0,
    delimiter: str | None = None,
    layers: Layers = None,
    overwrite: bool = False,
    shard: tuple[int, int] | str | None = None,
    progress: bool = True,
) -> Statistics | None:
    """Run texts through a model and keep only the states of the metrics; memory and disk do not grow with the number of texts.

    A run that was stopped continues when it is called again: each window of 64 batches counts exactly once. The states of the
    metrics are saved at the end of a window, at most every 30 seconds.

    Args:
        model: A transformers model, on the device where it should run.
        tokenizer: Its tokenizer.
        texts: Strings; a generator is read as it is needed.
        metrics: One or several fresh streaming metrics; at the end they hold what *this* call has seen.
        path: The file that describes the run; the states are written next to it.
        batch_size: Texts per batch.
        max_length: Longest input in tokens; None uses what the model allows.
        long: As in :func:`attviz.analyze`.
        overlap: As in :func:`attviz.analyze`.
        delimiter: As in :func:`attviz.analyze`.
        layers: As in :func:`attviz.analyze`.
        overwrite: Whether existing statistics may be replaced.
        shard: As in :func:`attviz.analyze`; :func:`join_statistics` then joins the processes.
        progress: Show a bar on stderr.

    Returns:
        The statistics of all texts; None with ``shard``.

    Raises:
        ArgumentError: As :func:`attviz.analyze`; also if a metric cannot be saved.
    """
    path, listeners, layers = check_output(path, overwrite=overwrite), as_metrics(metrics), listed(layers)
    if not listeners:
        raise ArgumentError("accumulate: needs metrics=, such as attviz.metrics.HeadStatistics().")
    if isinstance(shard, tuple):
        check_shard(*shard)
    counts = TextCounts(most_remembered=_MOST_REMEMBERED)
    cutting = cutting_of(model, tokenizer, max_length, long, overlap, delimiter)
    settings = (
        settings_of(model, batch_size, "float16", layers, listeners, None, None) | {"documents": "none"} | run_settings(model, tokenizer)
    )
    settings |= data_settings(texts=texts) | {name: repr(value) for name, value in asdict(cutting).items()}
    runner = TextRunner(model, tokenizer, layers=layers, metrics=listeners, documents=False)
    sources = counts.counted(sources_of(texts, None, None, None))
    own = shard if isinstance(shard, tuple) else None
    label = None if own is None else f"{own[0]:05d}-of-{own[1]:05d}"
    growing = GrowingShard(path, settings, label, batch_size * WINDOW, documents=False)
    with growing, progress_bar(None, progress) as bar:
        windows = ClaimedWindows(growing, listeners, counts, own)
        runner.run(sources, growing.partial, bar, cutting=cutting, batch_size=batch_size, cut=counts.cut, windows=windows)
        windows.finish()
    tell(counts, progress)
    return None if shard is not None else join_statistics(path, overwrite=overwrite, remove=True)


def join_statistics(path: str | os.PathLike[str], *, overwrite: bool = False, remove: bool = False) -> Statistics:
    """Pool what several processes measured, and write it.

    Raises:
        FormatError: If texts are missing (the message says which), or the shards come from different runs.
        ArgumentError: If the statistics exist and ``overwrite`` is False.
    """
    target = check_output(path, overwrite=overwrite)
    shards = complete_shards(target)
    found = [metric_of(_identity(shards[0], place)) for place in range(_num_metrics(shards[0]))]
    pool_metrics(shards, found)
    names = _names(found)
    for name, metric in zip(names, found, strict=True):
        metric.save_state(state_path(target, name))
    settings = joined_settings(shards)
    model_name = str(shards[0].metadata["model_name"])
    told = _MARK | {"model_name": model_name, "settings": settings, "metrics": names}
    with replacing(target, overwrite=overwrite) as file:
        file.write(json.dumps(told, indent=1).encode("ascii") + b"\n")
    if remove:
        remove_shards(shards, target)
    return Statistics(dict(zip(names, found, strict=True)), model_name, settings)


def read_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read what :func:`accumulate` or :func:`join_statistics` wrote.

    Raises:
        FormatError: If it is something else, or damaged.
        FileNotFoundError: If there is no such file.
    """
    target = Path(path)
    check_input(target, "statistics of attviz", max_bytes=16 << 20)
    try:
        told = json.loads(target.read_bytes())
        if {name: told.get(name) for name in _MARK} != _MARK:
            raise ValueError("no mark")
        names, model_name, settings = list(told["metrics"]), str(told["model_name"]), dict(told["settings"])
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("a metric that is no name")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            f"{target}: not statistics of a corpus ({type(error).__name__}). `attviz analyze --statistics` makes them."
        ) from error
    found = {}
    for name in names:
        file = state_path(target, name)
        check_input(file, "the state of a metric")
        with file.open("rb") as opened:
            metric = metric_of(_identity_in(opened.read(1 << 20), str(file)))
        metric.load_state(file)
        found[name] = metric
    return Statistics(found, model_name, settings)


def state_path(path: Path, name: str) -> Path:
    """Path of the state of a metric.

    Example:
        >>> state_path(Path("run.stats"), "HeadStatistics").name
        'run.stats.HeadStatistics.safetensors'
    """
    return path.with_name(f"{path.name}.{name}.safetensors")


def is_statistics(path: str | os.PathLike[str]) -> bool:
    """Whether the shards next to a path come from a run of statistics."""
    return not holds_documents(complete_shards(Path(path))[0])


def metric_of(identity: str) -> Any:
    """A metric with the class and the options that a saved state names.

    Raises:
        FormatError: If :mod:`attviz.metrics` has no such metric.

    Example:
        >>> metric_of('HeadStatistics({"exclude_ids": [0], "reading": "diagonal"})').exclude_ids
        (0,)
    """
    from attviz.metrics._streaming.streaming import StreamingMetric

    name, _, options = identity.partition("(")
    kind = getattr(all_metrics, name, None) if name in all_metrics.__all__ else None
    try:
        if not (isinstance(kind, type) and issubclass(kind, StreamingMetric) and options.endswith(")")):
            raise ValueError("no streaming metric")
        given = json.loads(options[:-1])
        if given.get("reading") == "diagonal":
            del given["reading"]  # some have no choice
        return kind(**given)
    except (ValueError, TypeError, RecursionError, ArgumentError) as error:
        raise FormatError(f"attviz.metrics has no {identity[:200]!r}. Construct your metric and call its load_state(path).") from error


def _names(metrics: Sequence[Any]) -> list[str]:
    """The class of each metric, numbered if several have the same class."""
    kinds = [type(metric).__name__ for metric in metrics]
    return [kind if kinds.count(kind) == 1 else f"{kind}-{kinds[:place].count(kind)}" for place, kind in enumerate(kinds)]


def _num_metrics(shard: ArchiveDocuments) -> int:
    return sum(name.startswith("metric-") for name in shard.file.tensors)


def _identity(shard: ArchiveDocuments, place: int) -> str:
    length = shard.file.tensors[f"metric-{place}"].shape[0]
    return _identity_in(shard.file.rows(f"metric-{place}", 0, length).tobytes(), f"{shard.path}, metric {place}")


def _identity_in(raw: bytes, where: str) -> str:
    """Which metric a saved state belongs to."""
    try:
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        return str(json.loads(header["__metadata__"]["attviz.metric"])["identity"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not the state of a metric ({type(error).__name__}).") from error
