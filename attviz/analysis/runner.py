"""One pass of the model over the inputs of a data set that are left to do, batch by batch into the growing archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from attviz._capture import capture
from attviz.analysis.classes import Outcome, outcomes
from attviz.analysis.encoding import PIECES, WINDOW, Encoded, Source, batches, padded
from attviz.analysis.fingerprint import signal_hash
from attviz.analysis.metric_states import MetricStates
from attviz.analysis.resume import StoppedRun
from attviz.analysis.signals import signal_documents
from attviz.errors import ArgumentError
from attviz.hooks.session.recorder import as_metrics
from attviz.io.partial import PartialArchive
from attviz.io.stopped import Entry, text_hash
from attviz.readings import Reading
from attviz.records import Document

if TYPE_CHECKING:
    from tqdm import tqdm


class TextRunner:
    """One pass of a text model."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, layers: Sequence[str | int] | None, metrics: Any, reading: Reading | None = None
    ) -> None:
        self.model = reading_part(model)
        self.tokenizer = tokenizer
        self.metrics = as_metrics(metrics)
        self.reading = reading
        self.capture = capture(self.model, layers=layers, metrics=self.metrics or None, read=reading)
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.vocabulary = _vocabulary_size(self.model)

    def run(self, windows: Iterable[list[Encoded]], partial: PartialArchive, bar: tqdm[Any], *, batch_size: int) -> None:
        """Feed every batch that is left to do and append its documents; batches are the same whether a run was stopped or not."""
        states = MetricStates(self.metrics, partial)
        states.restore()
        stopped, empty = StoppedRun(partial), list[Encoded]()
        pad = getattr(self.tokenizer, "pad_token_id", None) is not None
        waiting = _left(batches(_with_tokens(windows, empty), batch_size, pad=pad), stopped, bar)
        first = next(waiting, None)  # where nothing is left to do there is no forward, and a capture without one is an error
        if first is not None:
            with eval_mode(self.model), self.capture as cap, torch.no_grad():
                for batch in chain([first], waiting):
                    self._batch(cap, batch, partial)
                    states.batch_done()
                    bar.update(len(batch))
        if empty and not stopped.has_done(*_entries(empty)):
            self._append_empty(empty, partial)
        bar.update(len(empty))
        stopped.finish()

    def _append_empty(self, empty: Sequence[Encoded], partial: PartialArchive) -> None:
        """Texts without any token never meet the model; they stay in the analysis, so that documents and texts still match."""
        if not partial.layers and not partial.is_shard:
            raise ArgumentError(f"all {len(empty)} texts have no tokens: there is nothing to analyse.")
        nothing = np.zeros((len(partial.layers), partial.num_heads, 0), dtype=np.float32)
        sources = [one.source for one in empty]
        documents = [Document(source.text, (), nothing, name=source.name, label=source.label) for source in sources]
        partial.append([(one.number, document) for one, document in zip(empty, documents, strict=True)], partial.layers)

    def _batch(self, cap: Any, batch: list[Encoded], partial: PartialArchive) -> None:
        _check_ids(batch, self.vocabulary, self.tokenizer)
        output = self.model(**padded(batch, self.tokenizer, self.device))
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
                f"{self.reading.name!r} gives {list(found.shape)}, not one number for each token [num_layers, batch, num_heads, q_len]. "
                "Take a reading such as Offset(-1), Keys(first=1) or RowEntropy()."
            )
        return found


def run_signals(
    model: nn.Module,
    processor: Any,
    sources: Iterable[Source],
    partial: PartialArchive,
    bar: tqdm[Any],
    *,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    **options: Any,
) -> None:
    """One pass of a vision or audio model over its share of the windows; ``options`` go to :func:`attviz.capture`."""
    states = MetricStates(as_metrics(options.get("metrics")), partial)
    states.restore()
    stopped, waiting = StoppedRun(partial), list[tuple[int, Source, str]]()

    def signals() -> Iterator[Any]:
        for place, source in enumerate(sources):
            if place // (batch_size * WINDOW) % share[1] != share[0]:
                continue
            number, content = place * PIECES, signal_hash(source.text)
            if stopped.has_done([Entry(number, -1, -1, content, text_hash(source.name), source.label)], [source.name]):
                bar.update(1)
            else:
                waiting.append((number, source, content))
                yield source.text

    part = reading_part(model)
    with eval_mode(part):
        for layers, documents in signal_documents(part, processor, signals(), batch_size=batch_size, **options):
            batch, waiting[:] = waiting[: len(documents)], waiting[len(documents) :]
            named = [(n, replace(doc, name=source.name, label=source.label)) for (n, source, _), doc in zip(batch, documents, strict=True)]
            partial.append(named, layers, [content for _, _, content in batch])
            states.batch_done()
            bar.update(len(documents))
    stopped.finish()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; after it, every module is in the mode in which it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def reading_part(model: nn.Module) -> nn.Module:
    """The encoder of an encoder-decoder model: it is the one that reads the input."""
    config = getattr(model, "config", None)
    get_encoder: Any = getattr(model, "get_encoder", None)
    if getattr(config, "is_encoder_decoder", False) and get_encoder is not None:
        encoder: nn.Module = get_encoder()
        return encoder
    return model


def _left(waiting: Iterable[list[Encoded]], stopped: StoppedRun, bar: tqdm[Any]) -> Iterator[list[Encoded]]:
    """Leave out the batches that a stopped run has done."""
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


def _with_tokens(windows: Iterable[list[Encoded]], empty: list[Encoded]) -> Iterator[list[Encoded]]:
    for window in windows:
        empty += (one for one in window if not one.tokens)
        yield [one for one in window if one.tokens]


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
