"""Stages for ``ray.data.Dataset.map_batches``: actors that hold a model, NumPy batches of texts in, columns out.

Ray is not imported here: a stage is a class that is called with a batch, as ``map_batches`` expects. A batch counts exactly once, however
often Ray restarts its task, because the state of the metrics travels with the batch's result, not in the actor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attviz.errors import ArgumentError
from attviz.io.merge import merge_saved_state
from attviz.records import Analysis, Document

Model = str | Path | Callable[[], tuple[Any, Any]]
Batch = Mapping[str, np.ndarray]
_STATE = "attviz_state_"

_COLUMNS: dict[str, Callable[[Document], Any]] = {
    "tokens": lambda document: np.array(document.tokens, dtype=object),
    "token_ids": lambda document: document.token_ids,
    "diagonal": lambda document: document.diagonal,
    "mean": lambda document: document.diagonal.astype(np.float32).mean((0, 1)),
    "head_mean": lambda document: document.diagonal.astype(np.float32).mean(2) if document.tokens else None,
}


class _Stage:
    """An actor that holds a model and its tokenizer.

    Args:
        model: A hub id, a folder, or a function that returns (model, tokenizer); it is called in the actor.
        text_column: The column of the texts.
        device: Where the model runs; with ``num_gpus=1`` an actor sees its own GPU as ``"cuda"``.
        **options: Options of :func:`attviz.analyze`, such as ``batch_size``, ``max_length``, ``layers``, ``precision``.
    """

    def __init__(self, model: Model, *, text_column: str = "text", device: str = "cpu", **options: Any) -> None:
        from attviz.analysis.models import load_model

        refused = sorted({"archive", "shard", "metrics", "long", "delimiter", "labels", "names"} & options.keys())
        if refused:
            raise ArgumentError(
                f"{type(self).__name__}: {', '.join(refused)} is not allowed here: each text of a batch must become one row."
            )
        self.model, self.tokenizer = model() if callable(model) else load_model(str(model))
        self.model.to(device)
        self.text_column, self.options = text_column, options | {"progress": False}

    def _analysed(self, batch: Batch, metrics: Any = None) -> Analysis:
        from attviz.analysis import analyze

        if self.text_column not in batch:
            found = ", ".join(map(repr, batch)) or "none"
            raise ArgumentError(f"{type(self).__name__}: no column {self.text_column!r} in the batch; found {found}. Pass text_column=.")
        texts = [str(text) for text in batch[self.text_column]]
        return analyze(self.model, self.tokenizer, texts, metrics=metrics, **self.options)


class DiagonalStage(_Stage):
    """Adds the self-attention of every text as columns.

    Args:
        model: A hub id, a folder, or a function that returns (model, tokenizer).
        columns: Some of ``"tokens"``, ``"token_ids"``, ``"diagonal"`` ([num_layers, num_heads, num_tokens]), ``"mean"`` (one per token)
            and ``"head_mean"`` ([num_layers, num_heads]). They are called ``attviz_tokens`` and so on.
        **options: ``text_column``, ``device``, and options of :func:`attviz.analyze`.

    Raises:
        ArgumentError: If there is no such column, or an option would change the number of rows.

    Example:
        >>> dataset.map_batches(DiagonalStage, fn_constructor_args=("./my-model",), concurrency=2, batch_size=256)  # doctest: +SKIP
    """

    def __init__(self, model: Model, *, columns: Sequence[str] = ("tokens", "diagonal"), **options: Any) -> None:
        strangers = [name for name in columns if name not in _COLUMNS]
        if strangers:
            raise ArgumentError(f"DiagonalStage: columns must be some of {', '.join(_COLUMNS)}; got {', '.join(map(repr, strangers))}.")
        super().__init__(model, **options)
        self.columns = tuple(columns)

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """The batch with its new columns."""
        documents = self._analysed(batch).documents
        made = {f"attviz_{name}": _ragged([_COLUMNS[name](document) for document in documents]) for name in self.columns}
        return dict(batch) | made


class StatisticsStage(_Stage):
    """Returns one row per batch with the states of the metrics; :func:`pool_states` pools the rows.

    Args:
        model: A hub id, a folder, or a function that returns (model, tokenizer).
        metrics: A function that returns the streaming metrics, such as ``lambda: [HeadStatistics()]``.
        **options: As in :class:`DiagonalStage`.
    """

    def __init__(self, model: Model, metrics: Callable[[], Sequence[Any]], **options: Any) -> None:
        super().__init__(model, **options)
        self._metrics = metrics

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """One row of saved states."""
        metrics = list(self._metrics())
        self._analysed(batch, metrics)
        return {f"{_STATE}{place}": _ragged([_saved(metric)]) for place, metric in enumerate(metrics)}


def pool_states(rows: Iterable[Mapping[str, Any]], metrics: Sequence[Any]) -> Sequence[Any]:
    """Pool the rows of :class:`StatisticsStage` into metrics.

    Args:
        rows: ``dataset.iter_rows()``.
        metrics: Metrics constructed as in the stage, in the same order.

    Returns:
        The metrics.

    Raises:
        ArgumentError: If the rows hold states of other metrics.
        MetricError: If a state belongs to another metric or to other options.
    """
    for row in rows:
        held = sum(name.startswith(_STATE) for name in row)
        if held != len(metrics):
            raise ArgumentError(f"pool_states: the rows hold the states of {held} metrics, and {len(metrics)} were given.")
        for place, metric in enumerate(metrics):
            merge_saved_state(metric, bytes(row[f"{_STATE}{place}"]))
    return metrics


def _saved(metric: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="attviz-") as folder:
        metric.save_state(Path(folder) / "state")
        return (Path(folder) / "state").read_bytes()


def _ragged(values: Sequence[Any]) -> np.ndarray:
    """One object per row, whatever their shapes."""
    column = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        column[place] = value
    return column
