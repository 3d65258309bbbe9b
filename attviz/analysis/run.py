"""``attviz.analyze``: run the texts through the model in batches and keep the diagonal of every token."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from attviz.analysis.classes import class_names
from attviz.analysis.encoding import WINDOW, Cutting, Source, length_limit
from attviz.analysis.fingerprint import data_settings, run_settings
from attviz.analysis.runner import TextRunner, run_signals
from attviz.analysis.share import ClaimedWindows
from attviz.analysis.signals import is_processor
from attviz.analysis.sources import sources_of
from attviz.analysis.temporary import TemporaryFolder
from attviz.analysis.text_counts import TextCounts
from attviz.documents import model_name
from attviz.errors import ArgumentError
from attviz.files import check_output
from attviz.hooks.session.recorder import as_metrics
from attviz.io import ArchiveDocuments, load
from attviz.io.partial import PartialArchive
from attviz.io.shards import check_shard
from attviz.io.share import GrowingShard
from attviz.readings import Reading
from attviz.records import Analysis, Document
from attviz.selecting import Layers, listed

if TYPE_CHECKING:
    from tqdm import tqdm

Work = Callable[..., None]  # of (partial, bar), and windows= where several processes share them
_IN_MEMORY_BYTES = 256 * 1024**2
_UNLIMITED = 10**9  # tokens, where neither the model nor its tokenizer says


def analyze(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[Any],
    *,
    labels: Iterable[int | str | None] | None = None,
    label_names: Sequence[str] | None = None,
    names: Iterable[str] | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    long: str = "truncate",
    overlap: int = 0,
    delimiter: str | None = None,
    layers: Layers = None,
    metrics: Any = None,
    reading: Reading | None = None,
    precision: str = "float16",
    archive: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    shard: tuple[int, int] | str | None = None,
    progress: bool = True,
) -> Analysis:
    """Run texts through a model and keep, for every token, the attention of every layer and head to the token's own position.

    Texts are read on demand and batched by length, and their diagonals are appended to an archive on disk, so that memory stays bounded
    for any number of texts. With ``archive=``, a run that was stopped (Ctrl-C, a full disk, a crash) is resumed by the same call and
    produces the same file as an uninterrupted one. Without it the archive is temporary, and is read into memory at the end if it is
    small.

    Args:
        model: A transformers model, on the device where it should run; in eval mode during the run, restored afterwards.
        tokenizer: Its tokenizer; for a vision or audio model its image processor or feature extractor.
        texts: Strings; a list, a generator, a column of a Hugging Face data set. For a vision model images, whose patches become
            tokens and keep their grid; for an audio model sounds, whose frames become tokens.
        labels: The true class of each text: indices, or names of ``label_names``; None where unknown.
        label_names: One per class; None uses those of the model's configuration.
        names: Names of the documents; None numbers them.
        batch_size: Texts per batch.
        max_length: Longest input in tokens; None uses what the model allows.
        long: ``"truncate"`` or ``"split"`` longer texts.
        overlap: Tokens that neighbouring pieces of a split text share.
        delimiter: Split each text at this string first; every piece becomes a document.
        layers: Layers to keep, as in :func:`attviz.capture`: one or several indices, slices, names or glob patterns.
        metrics: One or more streaming metrics to feed. Their states are saved with an archive, so that a resumed run returns the same
            statistics; an object of your own needs ``save_state(path)`` and ``load_state(path)`` for that.
        reading: For texts, store this instead of the diagonal: one number per token, layer and head, such as ``Offset(-1)``.
        precision: How the diagonals are stored: ``"float32"``, ``"float16"``, ``"u16"`` or ``"u8"``, as in :func:`attviz.io.save`.
        archive: Where to store the result; None stores nothing beyond the analysis. The work of a stopped run is in ``archive.part``.
        overwrite: Whether an existing file may be replaced, at the end.
        shard: For one of several processes: ``"any"`` takes windows of texts that no other process has taken, (index, count)
            every count-th one. Each process writes a shard; :func:`attviz.io.merge` joins the shards when all texts are done.
        progress: Show a bar on stderr.

    Returns:
        The analysis: layers, documents in the order of the texts, class names, model name; with ``shard``, that of this process.
        ``settings["data"]`` counts, as JSON, the texts, the empty, repeated and truncated ones, and the tokens lost.

    Raises:
        ArgumentError: If an argument, a text or a label is invalid, or the tokenizer does not belong to the model; if the archive exists
            and ``overwrite`` is False, or a stopped run differs from this one (the message names the difference).
        CaptureError: If the model's attention cannot be seen.
        FormatError: If another process writes to the archive.
    """
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1, got {batch_size}.")
    archive, metrics, layers = _output(archive, overwrite, shard, reading), as_metrics(metrics), listed(layers)
    known, counts = class_names(model, label_names), TextCounts()
    sources = counts.counted(sources_of(texts, labels, names, known))
    settings = settings_of(model, batch_size, precision, layers, metrics, known, reading)
    if archive is not None:  # nothing else can be taken up again
        settings |= run_settings(model, tokenizer) | data_settings(texts=texts, labels=labels, names=names)
    cutting = None if is_processor(tokenizer) else cutting_of(model, tokenizer, max_length, long, overlap, delimiter)
    options = {"batch_size": batch_size, "layers": layers, "metrics": metrics or None}
    work = _work(model, tokenizer, sources, cutting, counts, options, reading)
    settings |= {} if cutting is None else {name: repr(value) for name, value in asdict(cutting).items()}
    total = len(texts) if isinstance(texts, Sized) and not delimiter and long == "truncate" else None
    bar = partial(progress_bar, total, progress)
    share = None if shard is None else partial(_shared, shard=shard, metrics=metrics, window_texts=batch_size * WINDOW)
    analysis = share(work, archive, settings, bar, counts) if share else _kept(work, archive, settings, known, overwrite, bar, counts)
    tell(counts, progress)
    return analysis


def _work(
    model: nn.Module,
    tokenizer: Any,
    sources: Iterable[Source],
    cutting: Cutting | None,
    counts: TextCounts,
    options: Mapping[str, Any],
    reading: Reading | None,
) -> Work:
    """The work, as a function of the archive to write to: over texts or, without ``cutting``, over images or sounds."""
    if cutting is None and reading is not None:
        raise ArgumentError("analyze: reading= works for texts only. For images and sounds, use attviz.capture(read=...).")
    if cutting is None:
        return partial(run_signals, model, tokenizer, sources, **options)
    runner = TextRunner(model, tokenizer, layers=options["layers"], metrics=options["metrics"], reading=reading)
    return partial(runner.run, sources, cutting=cutting, batch_size=options["batch_size"], cut=counts.cut)


def _output(
    archive: str | os.PathLike[str] | None, overwrite: bool, shard: tuple[int, int] | str | None, reading: Reading | None
) -> Path | None:
    """The file to write, checked before any work is done."""
    if reading is not None and reading.unit != "probability" and archive is not None:
        raise ArgumentError(
            f"analyze: an archive holds probabilities, but {reading.name!r} is in {reading.unit}. Leave archive= out, or read the numbers "
            "with metrics=."
        )
    if archive is None:
        if shard is not None:
            raise ArgumentError("shard= needs archive=: the shards are written next to it.")
        return None
    if isinstance(shard, tuple):
        check_shard(*shard)
    elif shard not in (None, "any"):
        raise ArgumentError(f'shard must be (index, count), or "any" to take what no other process has; got {shard!r}.')
    if shard is not None:
        return check_output(archive)  # it is written by the merge; shards have names of their own
    return check_output(archive, overwrite=overwrite or os.path.lexists(f"{os.fspath(archive)}.part"))


def tell(counts: TextCounts, progress: bool) -> None:
    """Report irregular texts on stderr."""
    if progress:
        for sentence in counts.sentences():
            print(f"attviz: {sentence}", file=sys.stderr)


def settings_of(
    model: nn.Module,
    batch_size: int,
    precision: str,
    layers: Sequence[str | int | slice] | None,
    metrics: Sequence[Any],
    known: Sequence[str] | None,
    reading: Reading | None,
) -> dict[str, str]:
    """What the run was asked for, as text."""
    if reading is not None and reading.unit != "probability" and precision in ("u8", "u16"):
        raise ArgumentError(f"precision={precision!r} holds probabilities, but {reading.name!r} is in {reading.unit}. Use 'float32'.")
    named = {} if reading is None else {"reading": reading.name, "unit": reading.unit}
    return {
        **named,
        "model": model_name(model),
        "precision": precision,
        "batch_size": str(batch_size),
        "layers": repr(None if layers is None else list(layers)),
        "metrics": repr([_identity(metric) for metric in metrics]),
        "label_names": json.dumps(None if known is None else list(known)),
    }


def cutting_of(model: nn.Module, tokenizer: Any, max_length: int | None, long: str, overlap: int, delimiter: str | None) -> Cutting:
    """What to do with long texts, checked against what the model accepts."""
    limit = length_limit(model, tokenizer)
    if max_length is not None and limit is not None and max_length > limit:
        raise ArgumentError(f"max_length={max_length} is more than the model accepts ({limit} tokens). Use long='split' for longer texts.")
    return Cutting(max_length or limit or _UNLIMITED, long, overlap, delimiter)


def _kept(
    work: Work,
    archive: Path | None,
    settings: dict[str, str],
    known: Sequence[str] | None,
    overwrite: bool,
    bar: Callable[[], tqdm[Any]],
    counts: TextCounts,
) -> Analysis:
    """Run the work into the requested archive, or into a temporary one."""
    with ExitStack() as stack:
        temporary = stack.enter_context(TemporaryFolder()) if archive is None else None
        path = archive or temporary.path / "run.attviz"  # type: ignore[union-attr]  # one of the two is there
        growing = stack.enter_context(PartialArchive(path, settings, resumable=temporary is None, overwrite=overwrite))
        work(growing, stack.enter_context(bar()))
        told = settings | {"data": json.dumps(counts.as_dict())}
        growing.finish(layers=growing.layers, label_names=known, model_name=settings["model"], settings=told)
        return load(path) if temporary is None else _result(path, temporary)


def _shared(
    work: Work,
    archive: Path | None,
    settings: dict[str, str],
    bar: Callable[[], tqdm[Any]],
    counts: TextCounts,
    *,
    shard: tuple[int, int] | str,
    metrics: Sequence[Any],
    window_texts: int,
) -> Analysis:
    """Run the part of the work that no other process has done, into a shard of the archive."""
    assert archive is not None  # _output saw to it
    own = shard if isinstance(shard, tuple) else None
    label = None if own is None else f"{own[0]:05d}-of-{own[1]:05d}"
    with GrowingShard(archive, settings, label, window_texts) as growing, bar() as shown:
        windows = ClaimedWindows(growing, metrics, counts, own)
        work(growing.partial, shown, windows=windows)
        path = windows.finish()
    return Analysis((), (), None, settings["model"], settings | {"data": json.dumps(counts.as_dict())}) if path is None else load(path)


def _result(path: Path, temporary: TemporaryFolder) -> Analysis:
    """Read a small result into memory; a large one keeps its folder for as long as its documents are in use."""
    analysis = load(path)
    large = path.stat().st_size > _IN_MEMORY_BYTES
    documents: Sequence[Document] = ArchiveDocuments(path, owner=temporary.keep()) if large else list(analysis.documents)
    return Analysis(analysis.layers, documents, analysis.label_names, analysis.model_name, analysis.settings)


def progress_bar(total: int | None, progress: bool) -> tqdm[Any]:
    """A bar on stderr."""
    from tqdm import tqdm

    return tqdm(total=total, unit="text", desc="attviz", disable=not progress, dynamic_ncols=True)


def _identity(metric: Any) -> str:
    """Class of a metric, with the options that change its numbers if it reports them."""
    tell_identity = getattr(metric, "_identity", None)
    return str(tell_identity()) if callable(tell_identity) else type(metric).__name__
