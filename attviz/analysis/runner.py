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
from attviz.analysis.encoding import Encoded, Source, batches, padded
from attviz.analysis.signals import signal_documents
from attviz.errors import ArgumentError
from attviz.io.partial import PartialArchive, text_hash
from attviz.records import Document

if TYPE_CHECKING:
    from tqdm import tqdm


class TextRunner:
    """One pass of a text model."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, layers: Sequence[str | int] | None, metrics: Any) -> None:
        self.model = reading_part(model)
        self.tokenizer = tokenizer
        self.capture = capture(self.model, layers=layers, metrics=metrics)
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.vocabulary = _vocabulary_size(self.model)

    def run(self, encoded: Iterable[Encoded], partial: PartialArchive, bar: tqdm[Any], *, batch_size: int) -> None:
        """Feed every batch and append its documents."""
        pad = getattr(self.tokenizer, "pad_token_id", None) is not None
        empty: list[Encoded] = []
        waiting = batches(_with_tokens(to_do(encoded, partial, bar), empty), batch_size, pad=pad)
        first = next(waiting, None)  # where nothing is left to do there is no forward, and a capture without one is an error
        if first is not None:
            with eval_mode(self.model), self.capture as cap, torch.no_grad():
                for batch in chain([first], waiting):
                    self._batch(cap, batch, partial)
                    bar.update(len(batch))
        self._append_empty(empty, partial)
        bar.update(len(empty))

    def _append_empty(self, empty: Sequence[Encoded], partial: PartialArchive) -> None:
        """Texts without any token never meet the model; they stay in the analysis, so that documents and texts still match."""
        if not empty:
            return
        if not partial.layers:
            raise ArgumentError(f"all {len(empty)} texts are without tokens: there is nothing to analyse.")
        nothing = np.zeros((len(partial.layers), partial.num_heads, 0), dtype=np.float32)
        for one in empty:
            source = one.source
            document = Document(source.text, (), nothing, name=source.name, label=source.label)
            partial.append([(one.number, document)], partial.layers)

    def _batch(self, cap: Any, batch: list[Encoded], partial: PartialArchive) -> None:
        _check_ids(batch, self.vocabulary, self.tokenizer)
        output = self.model(**padded(batch, self.tokenizer, self.device))
        documents = _documents(batch, cap.diagonal, outcomes(output, self.model, len(batch)))
        partial.append([(one.number, document) for one, document in zip(batch, documents, strict=True)], cap.layers)


def run_signals(
    model: nn.Module, processor: Any, sources: Iterable[Source], partial: PartialArchive, bar: tqdm[Any], *, batch_size: int, **options: Any
) -> None:
    """One pass of a vision or audio model; ``options`` go to :func:`attviz.capture`."""
    done = partial.done
    bar.update(len(done))
    waiting: list[tuple[int, Source]] = []

    def signals() -> Iterator[Any]:
        for number, source in enumerate(sources):
            if number not in done:
                waiting.append((number, source))
                yield source.text

    part = reading_part(model)
    with eval_mode(part):
        for layers, documents in signal_documents(part, processor, signals(), batch_size=batch_size, **options):
            batch, waiting[:] = waiting[: len(documents)], waiting[len(documents) :]
            named = [(n, replace(doc, name=source.name, label=source.label)) for (n, source), doc in zip(batch, documents, strict=True)]
            partial.append(named, layers)
            bar.update(len(documents))


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


def to_do(encoded: Iterable[Encoded], partial: PartialArchive, bar: tqdm[Any]) -> Iterator[Encoded]:
    """Leave out what a stopped run has already done, after a look whether it was the same text."""
    done = partial.done
    for one in encoded:
        if one.number not in done:
            yield one
        elif done[one.number] != text_hash(one.source.text):
            raise ArgumentError(
                f"{partial.folder} holds a stopped run over other texts: document {one.source.name!r} has changed. "
                "Run with the old data to resume, or remove the folder to begin anew."
            )
        else:
            bar.update(1)


def _with_tokens(encoded: Iterable[Encoded], empty: list[Encoded]) -> Iterator[Encoded]:
    for one in encoded:
        if one.tokens:
            yield one
        else:
            empty.append(one)


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
            f"{type(tokenizer).__name__} does not fit the model: it gave token id {highest}, the model has {vocabulary} embeddings. "
            "Load the tokenizer and the model from the same checkpoint."
        )
