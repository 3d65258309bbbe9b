"""``attviz.analyze``: run the texts through the model in batches and keep the diagonal of every token."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from attviz.analysis.classes import Outcome, class_names, outcomes
from attviz.analysis.encoding import Cutting, Encoded, Source, batches, encode, length_limit, padded
from attviz.analysis.temporary import TemporaryFolder
from attviz.capture import capture
from attviz.errors import ArgumentError
from attviz.io import ArchiveDocuments, load
from attviz.io.partial import PartialArchive, text_hash
from attviz.records import Analysis, Document

if TYPE_CHECKING:
    from tqdm import tqdm

_IN_MEMORY_BYTES = 256 * 1024**2


def analyze(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    labels: Iterable[int | str | None] | None = None,
    label_names: Sequence[str] | None = None,
    names: Iterable[str] | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    long: str = "truncate",
    overlap: int = 0,
    delimiter: str | None = None,
    layers: Sequence[str | int] | None = None,
    metrics: Any = None,
    precision: str = "float16",
    archive: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Analysis:
    """Run texts through a model and keep, per token, what every head of every layer gives to the token's own position.

    Texts are read as they are needed, batched by length, and their diagonals appended to an archive on disk, so that memory
    stays bounded for any number of them. With ``archive=`` a run that was stopped (Ctrl-C, a full disk, a crash) is taken up
    again by the same call; without it the archive is a temporary one, read into memory at the end when it is small.

    Args:
        model: A transformers model, on the device where it shall run; it is put into eval mode for the run, and back.
        tokenizer: Its tokenizer.
        texts: Strings; a list, a generator, a column of a Hugging Face data set.
        labels: The true class of each text: indices, or names of ``label_names``; None where unknown.
        label_names: One per class; None takes those of the model's configuration.
        names: What documents are called; None numbers them.
        batch_size: Texts that go through the model together.
        max_length: Most tokens of one input; None takes what the model allows.
        long: ``"truncate"`` or ``"split"`` texts of more tokens than that.
        overlap: Tokens that neighbouring pieces of a split text share.
        delimiter: Divide each text at this string first; every piece becomes a document.
        layers: Names, patterns or indices of the layers to keep, as in :func:`attviz.capture`.
        metrics: One or several streaming metrics, fed along the way. A resumed run feeds them only what is left to do.
        precision: ``"float16"`` or ``"float32"``, of the stored diagonals.
        archive: Where to keep the result; None keeps nothing on disk that outlives the analysis.
        progress: Show a bar on stderr.

    Returns:
        The analysis: layers, documents in the order of the texts, class names, model name.

    Raises:
        ArgumentError: If a parameter, a text or a label does not fit; a tokenizer that does not belong to the model among them.
        CaptureError: If the model's attention cannot be seen.
        FormatError: If another process writes to the archive.
    """
    limit = length_limit(model, tokenizer)
    if max_length is not None and limit is not None and max_length > limit:
        raise ArgumentError(f"max_length={max_length} is more than the model can take ({limit} tokens). Use long='split' for longer texts.")
    cutting = Cutting(max_length or limit or _unlimited(tokenizer), long, overlap, delimiter)
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1, got {batch_size}.")
    known = class_names(model, label_names)
    settings = {
        "model": _model_name(model),
        "weights": _fingerprint(model),
        "max_length": str(cutting.max_length),
        "long": long,
        "overlap": str(overlap),
        "delimiter": repr(delimiter),
        "layers": repr(None if layers is None else list(layers)),
        "precision": precision,
    }
    total = len(texts) if isinstance(texts, Sized) and not delimiter and long == "truncate" else None
    encoded = encode(_sources(texts, labels, names, known), tokenizer, cutting)
    with ExitStack() as stack:
        temporary = stack.enter_context(TemporaryFolder()) if archive is None else None
        path = Path(archive or "") if temporary is None else temporary.path / "run.attviz"
        partial = stack.enter_context(PartialArchive(path, settings))
        bar = stack.enter_context(_bar(total, progress))
        runner = _Runner(model, tokenizer, layers=layers, metrics=metrics, bar=bar)
        runner.run(_to_do(encoded, partial, bar), partial, batch_size)
        partial.finish(layers=partial.layers, label_names=known, model_name=settings["model"])
        return load(path) if temporary is None else _result(path, temporary)


class _Runner:
    """One pass of the model over the inputs that are left to do."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, layers: Sequence[str | int] | None, metrics: Any, bar: tqdm[Any]) -> None:
        self.model = _text_part(model)
        self.tokenizer = tokenizer
        self.bar = bar
        self.capture = capture(self.model, layers=layers, metrics=metrics)
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.vocabulary = _vocabulary_size(self.model)

    def run(self, encoded: Iterable[Encoded], partial: PartialArchive, batch_size: int) -> None:
        """Feed every batch and append its documents; modules return to the mode they were in."""
        pad = getattr(self.tokenizer, "pad_token_id", None) is not None
        training = [module for module in self.model.modules() if module.training]
        empty: list[Encoded] = []
        waiting = batches(_with_tokens(encoded, empty), batch_size, pad=pad)
        first = next(waiting, None)  # where nothing is left to do there is no forward, and a capture without one is an error
        self.model.eval()
        try:
            if first is not None:
                with self.capture as cap, torch.no_grad():
                    for batch in chain([first], waiting):
                        self._batch(cap, batch, partial)
        finally:
            for module in training:
                module.training = True
        self._append_empty(empty, partial)

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
            self.bar.update(1)

    def _batch(self, cap: Any, batch: list[Encoded], partial: PartialArchive) -> None:
        _check_ids(batch, self.vocabulary, self.tokenizer)
        output = self.model(**padded(batch, self.tokenizer, self.device))
        documents = _documents(batch, cap.diagonal, outcomes(output, self.model, len(batch)))
        partial.append([(one.number, document) for one, document in zip(batch, documents, strict=True)], cap.layers)
        self.bar.update(len(batch))


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


def _with_tokens(encoded: Iterable[Encoded], empty: list[Encoded]) -> Iterator[Encoded]:
    for one in encoded:
        if one.tokens:
            yield one
        else:
            empty.append(one)


def _to_do(encoded: Iterable[Encoded], partial: PartialArchive, bar: tqdm[Any]) -> Iterator[Encoded]:
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


def _sources(
    texts: Iterable[str], labels: Iterable[int | str | None] | None, names: Iterable[str] | None, known: Sequence[str] | None
) -> Iterator[Source]:
    if isinstance(texts, str):
        raise ArgumentError("texts must be several strings, got one: pass [text].")
    label, name = (None if given is None else iter(given) for given in (labels, names))
    nothing = object()
    for number, text in enumerate(texts):
        own = None if label is None else next(label, nothing)
        called = str(number) if name is None else next(name, nothing)
        if own is nothing or called is nothing:
            raise ArgumentError(f"{'labels' if own is nothing else 'names'} must be one per text, got {number} and more texts than that.")
        yield Source(text, str(called), _label_index(own, known, number))
    for given, what in ((label, "labels"), (name, "names")):
        if given is not None and next(given, nothing) is not nothing:
            raise ArgumentError(f"{what} must be one per text, got more {what} than texts.")


def _label_index(label: Any, known: Sequence[str] | None, number: int) -> int | None:
    if label is None:
        return None
    if isinstance(label, str):
        if known is None or label not in known:
            raise ArgumentError(
                f"text {number}: label {label!r} is none of the classes ({', '.join(known or ['none are known'])}). Pass label_names=."
            )
        return list(known).index(label)
    if int(label) < 0 or (known is not None and int(label) >= len(known)):
        raise ArgumentError(f"text {number}: label {label} is outside the {len(known or [])} classes. Pass label_names= with all of them.")
    return int(label)


def _result(path: Path, temporary: TemporaryFolder) -> Analysis:
    """A small result is read into memory; a large one keeps its folder until nobody holds its documents."""
    analysis = load(path)
    large = path.stat().st_size > _IN_MEMORY_BYTES
    documents: Sequence[Document] = ArchiveDocuments(path, owner=temporary.keep()) if large else list(analysis.documents)
    return Analysis(analysis.layers, documents, analysis.label_names, analysis.model_name, analysis.settings)


def _bar(total: int | None, progress: bool) -> tqdm[Any]:
    from tqdm import tqdm

    return tqdm(total=total, unit="text", desc="attviz", disable=not progress, dynamic_ncols=True)


def _text_part(model: nn.Module) -> nn.Module:
    """The encoder of an encoder-decoder model: it is the one that reads the text."""
    config = getattr(model, "config", None)
    get_encoder: Any = getattr(model, "get_encoder", None)
    if getattr(config, "is_encoder_decoder", False) and get_encoder is not None:
        encoder: nn.Module = get_encoder()
        return encoder
    return model


def _model_name(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)


def _fingerprint(model: nn.Module) -> str:
    """A hash of a few values of every parameter, so that a run is not resumed with the same model trained further."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _unlimited(tokenizer: Any) -> int:
    return min(int(getattr(tokenizer, "model_max_length", None) or 10**9), 10**9)


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
