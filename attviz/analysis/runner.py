"""One pass of the model over the remaining inputs of a data set, batch by batch into the growing archive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from attviz._capture import Keep, capture
from attviz.analysis.classes import Outcome, outcomes
from attviz.analysis.encoding import WINDOW, Cutting, Encoded, Source, batches, encoded_windows, lazy_windows, padded
from attviz.analysis.fingerprint import signal_hash
from attviz.analysis.metric_states import MetricStates
from attviz.analysis.placement import input_device
from attviz.analysis.resume import StoppedRun
from attviz.analysis.share import AllWindows, Windows
from attviz.analysis.signals import signal_documents
from attviz.errors import ArgumentError
from attviz.hooks.session.recorder import as_metrics
from attviz.io.partial import PartialArchive
from attviz.io.shard_names import PIECES
from attviz.io.stopped import Entry, text_hash
from attviz.readings import Reading
from attviz.records import Document
from attviz.selecting import Layers

if TYPE_CHECKING:
    from tqdm import tqdm


class TextRunner:
    """One pass of a text model."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        layers: Layers,
        metrics: Any,
        reading: Reading | None = None,
        documents: bool = True,
    ) -> None:
        """Prepare the pass; without ``documents``, only the metrics are fed."""
        self.model = reading_part(model)
        self.tokenizer = tokenizer
        self.metrics = as_metrics(metrics)
        self.reading, self.documents = reading, documents
        keep: Keep = "last" if documents else "none"
        self.capture = capture(self.model, layers=layers, metrics=self.metrics or None, read=reading, keep=keep)
        self.device = input_device(model)
        self.vocabulary = _vocabulary_size(self.model)

    def run(
        self,
        sources: Iterable[Source],
        partial: PartialArchive,
        bar: tqdm[Any],
        *,
        cutting: Cutting,
        batch_size: int,
        cut: Callable[[int], None],
        windows: Windows | None = None,
    ) -> None:
        """Run every remaining batch and append its documents; the batches are the same whether or not a run was stopped.

        Args:
            sources: The texts.
            partial: The archive that documents are appended to.
            bar: The progress bar.
            cutting: What to do with long texts.
            batch_size: Texts per batch.
            cut: Called with the tokens that a truncated text loses.
            windows: Asked before each window of texts if several processes share them; it then also saves the states of metrics.
        """
        states = MetricStates(self.metrics, partial) if windows is None else None
        if states is not None:
            states.restore()
        stopped, empty = StoppedRun(partial), _Empty(partial, windows or AllWindows(), keep=self.documents)
        pad = getattr(self.tokenizer, "pad_token_id", None) is not None
        options: dict[str, Any] = {"size": batch_size * WINDOW, "take": empty.windows.take, "done": empty.window_done, "cut": cut}
        encoded = encoded_windows(sources, self.tokenizer, cutting, **options)
        waiting = _left(batches(empty.without(encoded), batch_size, pad=pad), stopped, bar)
        first = next(waiting, None)  # where nothing is left to do there is no forward, and a capture without one is an error
        if first is not None:
            with eval_mode(self.model), self.capture as cap, torch.no_grad():
                for batch in chain([first], waiting):
                    self._batch(cap, batch, partial)
                    if states is not None:
                        states.batch_done()
                    bar.update(len(batch))
        bar.update(empty.append_all(stopped))
        stopped.finish()

    def _batch(self, cap: Any, batch: list[Encoded], partial: PartialArchive) -> None:
        _check_ids(batch, self.vocabulary, self.tokenizer)
        output = self.model(**padded(batch, self.tokenizer, self.device))
        if not self.documents:
            return
        documents = _documents(batch, self._values(cap), outcomes(output, self.model, len(batch)))
        partial.append([(one.number, document) for one, document in zip(batch, documents, strict=True)], cap.layers)

    def _values(self, cap: Any) -> Tensor:
        """One number for each layer, text, head and token."""
        diagonal: Tensor = cap.diagonal
        if self.reading is None:
            return diagonal
        found: Tensor = cap.reading(self.reading.name)
        if found.shape != diagonal.shape or self.reading.per != "query":
            raise ArgumentError(
                f"{self.reading.name!r} has shape {list(found.shape)} instead of one number per token [num_layers, "
                "batch, num_heads, q_len]. "
                "Use a reading such as Offset(-1), Keys(first=1) or RowEntropy()."
            )
        return found


class _Empty:
    """Texts without any token are not run; they stay in the analysis, so that documents and texts still match.

    A single process appends them at the end. One of several processes appends those of a window before it marks the window as done, or
    as soon as a text with tokens has shown the layers and heads.
    """

    def __init__(self, partial: PartialArchive, windows: Windows, *, keep: bool) -> None:
        self.windows, self._partial, self._keep = windows, partial, keep
        self._waiting: list[Encoded] = []
        self._undone: list[int] = []
        self._count = 0

    def without(self, windows: Iterable[list[Encoded]]) -> Iterator[list[Encoded]]:
        """The inputs that have tokens."""
        for window in windows:
            self._waiting += (one for one in window if not one.tokens and self._keep)
            yield [one for one in window if one.tokens]

    def window_done(self, window: int) -> None:
        """All batches of a window are appended."""
        self._undone.append(window)
        if self._partial.is_shard and (self._partial.layers or not self._waiting):
            self._append()

    def append_all(self, stopped: StoppedRun) -> int:
        """Append the rest at the end of the pass; returns how many texts had no tokens."""
        if self._waiting and stopped.has_done(*_entries(self._waiting)):
            self._count, self._waiting = len(self._waiting), []
        if self._waiting and not self._partial.layers and not self._partial.is_shard:
            raise ArgumentError(f"none of the {len(self._waiting)} texts has any tokens, so there is nothing to analyse.")
        self._append()
        return self._count

    def _append(self) -> None:
        if self._waiting:
            nothing = np.zeros((len(self._partial.layers), self._partial.num_heads, 0), dtype=np.float32)
            sources = [one.source for one in self._waiting]
            documents = [Document(source.text, (), nothing, name=source.name, label=source.label) for source in sources]
            numbered = [(one.number, document) for one, document in zip(self._waiting, documents, strict=True)]
            self._partial.append(numbered, self._partial.layers)
        self._count, self._waiting = self._count + len(self._waiting), []
        while self._undone:  # the last one first: what was cut is of it, those that waited for it had nothing but empty texts
            self.windows.done(self._undone.pop())


def run_signals(
    model: nn.Module,
    processor: Any,
    sources: Iterable[Source],
    partial: PartialArchive,
    bar: tqdm[Any],
    *,
    batch_size: int,
    windows: Windows | None = None,
    **options: Any,
) -> None:
    """One pass of a vision or audio model, window by window; ``options`` go to :func:`attviz.capture`."""
    states = MetricStates(as_metrics(options.get("metrics")), partial) if windows is None else None
    if states is not None:
        states.restore()
    share, part, stopped, size = windows or AllWindows(), reading_part(model), StoppedRun(partial), batch_size * WINDOW
    left: list[tuple[int, Source, str]] = []

    def signals(ours: Iterable[Source], start: int) -> Iterator[Any]:
        for place, source in enumerate(ours, start=start):
            entry = (place * PIECES, source, signal_hash(source.text))
            if stopped.has_done([_signal_entry(*entry)], [source.name]):
                bar.update(1)
            else:
                left.append(entry)
                yield source.text

    with eval_mode(part):
        for window, ours in enumerate(lazy_windows(sources, size)):
            if not share.take(window, ()):  # an image is large: a window of them is never in memory
                continue
            for layers, documents in signal_documents(part, processor, signals(ours, window * size), batch_size=batch_size, **options):
                batch, left[:] = left[: len(documents)], left[len(documents) :]
                pairs = zip(batch, documents, strict=True)
                named = [(n, replace(doc, name=source.name, label=source.label)) for (n, source, _), doc in pairs]
                partial.append(named, layers, [content for _, _, content in batch])
                if states is not None:
                    states.batch_done()
                bar.update(len(documents))
            share.done(window)
    stopped.finish()


def _signal_entry(number: int, source: Source, content: str) -> Entry:
    return Entry(number, -1, -1, content, text_hash(source.name), source.label)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is back in its own mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def reading_part(model: nn.Module) -> nn.Module:
    """The encoder of an encoder-decoder model, which is the part that reads the input."""
    config = getattr(model, "config", None)
    get_encoder: Any = getattr(model, "get_encoder", None)
    if getattr(config, "is_encoder_decoder", False) and get_encoder is not None:
        encoder: nn.Module = get_encoder()
        return encoder
    return model


def _left(waiting: Iterable[list[Encoded]], stopped: StoppedRun, bar: tqdm[Any]) -> Iterator[list[Encoded]]:
    """Leave out the batches that a stopped run finished."""
    for batch in waiting:
        if stopped.has_done(*_entries(batch)):
            bar.update(len(batch))
        else:
            yield batch


def _entries(batch: Sequence[Encoded]) -> tuple[list[Entry], list[str]]:
    entries = [
        Entry(one.number, len(one.tokens), -1, text_hash(one.source.text), text_hash(one.source.name), one.source.label) for one in batch
    ]
    return entries, [one.source.name for one in batch]


def _documents(batch: Sequence[Encoded], diagonal: Tensor, seen: Sequence[Outcome]) -> list[Document]:
    values = diagonal.float().cpu().numpy()
    documents = []
    for place, (one, outcome) in enumerate(zip(batch, seen, strict=True)):
        documents.append(
            Document(
                text=one.source.text,
                tokens=one.tokens,
                diagonal=values[:, place, :, : len(one.tokens)],
                token_ids=np.array(one.inputs["input_ids"], dtype=np.int64),
                offsets=one.offsets,
                special=one.special,
                name=one.source.name,
                label=one.source.label,
                prediction=outcome.prediction,
                probabilities=outcome.probabilities,
            )
        )
    return documents


def _vocabulary_size(model: nn.Module) -> int | None:
    get_embeddings: Any = getattr(model, "get_input_embeddings", None)
    embeddings = get_embeddings() if get_embeddings is not None else None
    return int(embeddings.num_embeddings) if isinstance(embeddings, nn.Embedding) else None


def _check_ids(batch: Sequence[Encoded], vocabulary: int | None, tokenizer: Any) -> None:
    highest = max(max(one.inputs["input_ids"], default=0) for one in batch)
    if vocabulary is not None and highest >= vocabulary:
        raise ArgumentError(
            f"{type(tokenizer).__name__} does not fit the model: it produced token id {highest}, the model has {vocabulary} embeddings. "
            "Load the tokenizer and the model from the same checkpoint."
        )
