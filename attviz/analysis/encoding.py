"""Texts cut to what a model accepts, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attviz.errors import ArgumentError
from attviz.io.shard_names import PIECES

LONG_CHOICES = ("truncate", "split")
WINDOW = 64  # batches that are sorted together, by length


@dataclass(frozen=True, slots=True)
class Source:
    """One text of the data set, with what is known of it."""

    text: str
    name: str
    label: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One input of the model: a text, or a piece of a long one.

    Attributes:
        number: Order of the input in the data set: the index of the text times ``PIECES``, plus the index of the piece.
        inputs: What the tokenizer returned, one list of ints per name (``input_ids``, ``token_type_ids``, ...).
        tokens: As the tokenizer spells them.
        offsets: Characters in ``source.text``; None if the tokenizer does not provide them.
        special: True for [CLS], [SEP] and the like.
    """

    number: int
    source: Source
    inputs: Mapping[str, Sequence[int]]
    tokens: tuple[str, ...]
    offsets: np.ndarray | None
    special: np.ndarray


@dataclass(frozen=True, slots=True)
class Cutting:
    """What to do with long texts.

    Attributes:
        max_length: Tokens of one input, special ones included.
        long: ``"truncate"`` drops what is too long, ``"split"`` makes several inputs of it.
        overlap: Tokens that neighbouring pieces share when a text is split.
        delimiter: Divides every text into pieces before anything else; None keeps it whole.
    """

    max_length: int
    long: str = "truncate"
    overlap: int = 0
    delimiter: str | None = None

    def __post_init__(self) -> None:
        if self.long not in LONG_CHOICES:
            raise ArgumentError(f"long must be one of {', '.join(map(repr, LONG_CHOICES))}; got {self.long!r}.")
        if self.max_length < 3:
            raise ArgumentError(f"max_length must be at least 3 (two special tokens and one more), got {self.max_length}.")
        if not 0 <= self.overlap < self.max_length - 2:
            raise ArgumentError(f"overlap must be from 0 to max_length - 3 = {self.max_length - 3} tokens, got {self.overlap}.")


def length_limit(model: nn.Module, tokenizer: Any) -> int | None:
    """Largest number of tokens that the position embeddings and the tokenizer allow; None if neither has a limit."""
    limits = []
    named = getattr(tokenizer, "model_max_length", None)
    if isinstance(named, int) and named < 10**9:  # tokenizers without a limit say 10**30
        limits.append(named)
    config = getattr(model, "config", None)
    if isinstance(positions := getattr(config, "max_position_embeddings", None), int):
        limits.append(positions)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name.rsplit(".", 1)[-1] and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts positions from padding_idx + 1
    return min(limits, default=None)


def encoded_windows(
    sources: Iterable[Source],
    tokenizer: Any,
    cutting: Cutting,
    *,
    size: int,
    take: Callable[[int, Sequence[Source]], bool] = lambda *_: True,
    done: Callable[[int], None] = lambda _: None,
    cut: Callable[[int], None] = lambda _: None,
) -> Iterator[list[Encoded]]:
    """Every input of the data set, in order, by windows: the unit that is sorted together, and that one of several processes takes.

    Args:
        sources: The texts.
        tokenizer: Cuts them into tokens.
        cutting: What to do with long ones.
        size: Texts per window, and the largest number of inputs that are sorted together.
        take: Called with the number of a window and its texts; a window that is not taken is not even tokenized.
        done: Called with the number of a window when the next one is requested.
        cut: Called with the tokens that a truncated text loses.

    Raises:
        ArgumentError: If a text is not a string, or the tokenizer cannot split it.
    """
    for window, lazy in enumerate(lazy_windows(sources, size)):
        texts = list(lazy)
        if not take(window, texts):
            continue
        waiting: list[Encoded] = []
        for place, source in enumerate(texts, start=window * size):
            pieces = (one for piece in _divided(source, cutting.delimiter) for one in _tokenized(piece, tokenizer, cutting, cut))
            for number, encoded in enumerate(pieces, start=place * PIECES):
                waiting.append(Encoded(number, *encoded))
                if len(waiting) == size:
                    yield waiting
                    waiting = []
        if waiting:
            yield waiting
        done(window)


def lazy_windows(sources: Iterable[Source], size: int) -> Iterator[Iterator[Source]]:
    """The data set in windows of that many texts, none of which is held in memory; the unread rest of a window is skipped."""
    waiting = iter(sources)
    for first in waiting:
        window = chain([first], islice(waiting, size - 1))
        yield window
        for _ in window:
            pass


def _divided(source: Source, delimiter: str | None) -> list[Source]:
    if not isinstance(source.text, str):
        raise ArgumentError(f"text {source.name!r} must be a string, got {type(source.text).__name__}. Drop or fill missing texts first.")
    if not delimiter:
        return [source]
    pieces = [piece for piece in source.text.split(delimiter) if piece.strip()] or [""]
    return [
        source if len(pieces) == 1 and pieces[0] == source.text else Source(p, f"{source.name}[{n}]", source.label)
        for n, p in enumerate(pieces)
    ]


def _tokenized(
    source: Source, tokenizer: Any, cutting: Cutting, cut: Callable[[int], None]
) -> list[tuple[Source, Mapping[str, Sequence[int]], tuple[str, ...], np.ndarray | None, np.ndarray]]:
    fast = bool(getattr(tokenizer, "is_fast", False))
    split = cutting.long == "split"
    if split and not fast:
        raise ArgumentError(
            f"long='split' needs a fast tokenizer, and {type(tokenizer).__name__} is not one. Use long='truncate', or split on a delimiter."
        )
    options: dict[str, Any] = {"truncation": True, "max_length": cutting.max_length, "return_special_tokens_mask": True}
    if fast:
        options |= {"return_offsets_mapping": True}
    if split:
        options |= {"return_overflowing_tokens": True, "stride": cutting.overlap}
    encoding = tokenizer([source.text], **options)
    if not split and len(encoding["input_ids"][0]) >= cutting.max_length:
        whole = len(tokenizer([source.text], verbose=False)["input_ids"][0])
        if whole > cutting.max_length:
            cut(whole - cutting.max_length)
    pieces: list[tuple[Source, Mapping[str, Sequence[int]], tuple[str, ...], np.ndarray | None, np.ndarray]] = []
    for place, ids in enumerate(encoding["input_ids"]):
        inputs = {name: list(encoding[name][place]) for name in encoding if name in tokenizer.model_input_names or name == "input_ids"}
        inputs.setdefault("attention_mask", [1] * len(ids))
        special = np.array(encoding["special_tokens_mask"][place], dtype=bool)
        offsets = np.array(encoding["offset_mapping"][place], dtype=np.int64).reshape(-1, 2) if fast else None
        own = source
        if split and len(encoding["input_ids"]) > 1 and offsets is not None:
            own, offsets = _piece_of(source, place, offsets, special)
        pieces.append((own, inputs, tuple(tokenizer.convert_ids_to_tokens(ids)), offsets, special))
    return pieces


def _piece_of(source: Source, place: int, offsets: np.ndarray, special: np.ndarray) -> tuple[Source, np.ndarray]:
    """The characters that a piece covers, and offsets into them."""
    real = offsets[~special]
    begin, end = (int(real[:, 0].min()), int(real[:, 1].max())) if len(real) else (0, 0)
    moved = np.where(special[:, None], 0, offsets - begin)
    return Source(source.text[begin:end], f"{source.name}[{place}]", source.label), moved


def batches(windows: Iterable[Sequence[Encoded]], batch_size: int, *, pad: bool) -> Iterator[list[Encoded]]:
    """Batches of inputs of similar length, sorted within a window, so that memory stays bounded.

    Args:
        windows: From :func:`encoded_windows`.
        batch_size: Largest number of inputs in a batch.
        pad: Whether inputs of different lengths may share a batch; not possible without a padding token.
    """
    for window in windows:
        yield from _cut(window, batch_size, pad)


def _cut(waiting: Sequence[Encoded], batch_size: int, pad: bool) -> Iterator[list[Encoded]]:
    batch: list[Encoded] = []
    for one in sorted(waiting, key=lambda one: len(one.tokens)):
        if len(batch) == batch_size or (batch and not pad and len(batch[0].tokens) != len(one.tokens)):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def padded(batch: Sequence[Encoded], tokenizer: Any, device: torch.device) -> dict[str, Tensor]:
    """The batch as tensors, padded on the right: a padding token in ``input_ids``, zero elsewhere."""
    longest = max(len(one.tokens) for one in batch)
    fill = {"input_ids": getattr(tokenizer, "pad_token_id", None) or 0, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
    return {
        name: torch.tensor([[*one.inputs[name], *[fill.get(name, 0)] * (longest - len(one.tokens))] for one in batch], device=device)
        for name in batch[0].inputs
    }
