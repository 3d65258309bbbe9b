"""Images and sounds: patches and frames as tokens, with the grid of the patches kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attviz._capture import capture
from attviz.analysis.classes import Outcome, outcomes
from attviz.analysis.placement import input_device
from attviz.errors import ArgumentError
from attviz.records import Document

Grid = tuple[int, int]


def is_processor(tokenizer: Any) -> bool:
    """Whether this prepares images or sounds rather than texts."""
    return not hasattr(tokenizer, "convert_ids_to_tokens") and bool(set(getattr(tokenizer, "model_input_names", ())) & _MAIN.keys())


_MAIN = {"pixel_values": "images", "input_features": "raw_speech", "input_values": "raw_speech"}


def signal_documents(
    model: nn.Module, processor: Any, signals: Iterable[Any], *, batch_size: int, **capture_options: Any
) -> Iterator[tuple[tuple[str, ...], list[Document]]]:
    """Run images or sounds through the model, batch by batch, in the order given.

    Args:
        model: A vision or audio model from transformers; for an encoder-decoder, its encoder.
        processor: Its image processor or feature extractor.
        signals: PIL images or arrays; sounds at the processor's sampling rate.
        batch_size: Inputs per batch; sounds of different lengths run one by one.
        **capture_options: For :func:`attviz.capture`.

    Yields:
        The names of the layers, and the documents of a batch, without names and labels.

    Raises:
        ArgumentError: If the processor returns an input that cannot be matched with the model's tokens.
    """
    device = input_device(model)
    waiting = iter(signals)
    first = list(islice(waiting, 1))
    if not first:
        return
    with capture(model, **capture_options) as cap, torch.no_grad():
        for batch in _batches(chain(first, waiting), batch_size):
            inputs = {name: value.to(device) for name, value in prepared_signals(processor, batch).items()}
            output = model(**inputs)
            values = cap.diagonal
            yield cap.layers, signal_batch(values, inputs, model, outcomes(output, model, len(batch)))


def _batches(signals: Iterator[Any], batch_size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for signal in signals:
        if batch and (len(batch) == batch_size or _length(signal) != _length(batch[0])):
            yield batch
            batch = []
        batch.append(signal)
    yield batch


def _length(signal: Any) -> int | None:
    """Number of samples of a sound; None for an image, which is resized for the model."""
    shape = np.shape(signal) if isinstance(signal, (np.ndarray, Tensor, list)) else ()
    return shape[0] if len(shape) == 1 else None


def prepared_signals(processor: Any, batch: Sequence[Any]) -> dict[str, Tensor]:
    """Images or sounds, preprocessed for the model."""
    name = next(name for name in processor.model_input_names if name in _MAIN)
    options: dict[str, Any] = {"return_tensors": "pt"}
    if name != "pixel_values":
        options["sampling_rate"] = processor.sampling_rate
    prepared = processor(list(batch), **options)
    return {key: value for key, value in prepared.items() if isinstance(value, Tensor)}


def signal_batch(values: Tensor, inputs: dict[str, Tensor], model: nn.Module, seen: Sequence[Outcome]) -> list[Document]:
    """Documents of a batch: patches with their grid, or frames."""
    diagonals = values.float().cpu().numpy()
    grid, tokens = _tokens(diagonals.shape[-1], inputs, model)
    special = np.array([token.startswith("[") for token in tokens])
    return [
        Document(
            text="",
            tokens=tokens,
            diagonal=diagonals[:, place],
            special=special,
            prediction=outcome.prediction,
            probabilities=outcome.probabilities,
            grid=grid,
        )
        for place, outcome in enumerate(seen)
    ]


def _tokens(num_tokens: int, inputs: dict[str, Tensor], model: nn.Module) -> tuple[Grid | None, tuple[str, ...]]:
    """Names of the tokens: patches by row and column, after any tokens that the model puts first; frames by number."""
    if "pixel_values" not in inputs:
        return None, tuple(f"frame {place}" for place in range(num_tokens))
    height, width = inputs["pixel_values"].shape[-2:]
    patch: Any = getattr(getattr(model, "config", None), "patch_size", None)
    rows, columns = (0, 0) if patch is None else (height // _side(patch, 0), width // _side(patch, 1))
    before = num_tokens - rows * columns
    if patch is None or before < 0:
        raise ArgumentError(
            f"the {num_tokens} tokens of {type(model).__name__} cannot be laid out as patches of {patch} in an image of "
            f"{height} x {width}. Models that merge patches have no grid: use attviz.capture and pass tokens= to attviz.view."
        )
    names = [f"[before {place}]" for place in range(before)] if before != 1 else ["[CLS]"]
    return (rows, columns), tuple([*names, *[f"{row},{column}" for row in range(rows) for column in range(columns)]])


def _side(patch: Any, axis: int) -> int:
    return int(patch if isinstance(patch, int) else patch[axis])
