"""A Capture (anything with ``diagonal``, ``layers``, ``token_ids`` and ``query_mask``) into Document records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from attviz.errors import ArgumentError, ShapeError
from attviz.records import Document


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor)


def captured_documents(capture: Any, tokens: Sequence[Sequence[str]] | None, tokenizer: Any | None) -> Iterator[Document]:
    """One Document for each sequence of the batch, padding queries left out; of texts packed into a row, one for each.

    Args:
        capture: ``diagonal`` is [num_layers, batch, num_heads, q_len]; ``token_ids`` and ``query_mask`` may be None.
        tokens: Strings of each sequence, all ``q_len`` of them or the real ones only.
        tokenizer: Turns ``token_ids`` into strings where ``tokens`` is not given (``convert_ids_to_tokens``).

    Yields:
        Documents named by their place in the batch. Without tokens and tokenizer a token is named by its id, or its position.

    Raises:
        ShapeError: If tokens and diagonal do not fit.
    """
    diagonal = _array(capture.diagonal)
    if diagonal.ndim != 4:
        raise ShapeError(f"view: capture.diagonal must be [num_layers, batch, num_heads, q_len], got {list(diagonal.shape)}.")
    texts = _texts(capture, diagonal)
    ids = None if getattr(capture, "token_ids", None) is None else _array(capture.token_ids)
    if tokens is not None and len(tokens) != len(texts):
        raise ShapeError(f"view: tokens has {len(tokens)} sequences and the capture has {_count(diagonal, texts)}.")
    if tokenizer is not None and tokens is None and ids is None:
        raise ArgumentError("view: the capture has no token_ids for the tokenizer to read; pass tokens=[[...], ...] instead.")
    for index, (row, keep) in enumerate(texts):
        own_ids = None if ids is None else ids[row][keep]
        names = _names(None if tokens is None else tokens[index], own_ids, tokenizer, keep, index)
        special = None
        if tokenizer is not None and own_ids is not None:
            special = np.isin(own_ids, list(getattr(tokenizer, "all_special_ids", ())))
        text = tokenizer.decode(own_ids.tolist()) if tokenizer is not None and own_ids is not None else " ".join(names)
        yield Document(text, names, diagonal[:, row][:, :, keep], own_ids, None, special, name=f"sequence {index}")


def _texts(capture: Any, diagonal: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Row of each sequence, and which of the row's tokens are its own; texts packed into a row are several."""
    batch, q_len = diagonal.shape[1], diagonal.shape[3]
    documents = getattr(capture, "documents", ())
    if len(documents) > batch:
        places = np.arange(q_len)
        return [(document.row, np.isin(places, _array(document.places))) for document in documents]
    mask = getattr(capture, "query_mask", None)
    real = np.ones((batch, q_len), bool) if mask is None else _array(mask).astype(bool)
    return list(enumerate(real))


def _count(diagonal: np.ndarray, texts: list[tuple[int, np.ndarray]]) -> str:
    batch = diagonal.shape[1]
    return f"batch={batch}" if len(texts) == batch else f"{len(texts)} of them, packed into {batch} row{'s' * (batch > 1)}"


def _names(tokens: Sequence[str] | None, ids: np.ndarray | None, tokenizer: Any | None, keep: np.ndarray, index: int) -> tuple[str, ...]:
    count = int(keep.sum())
    if tokens is not None:
        names = tuple(map(str, tokens))
        if len(names) == len(keep):
            return tuple(name for name, real in zip(names, keep, strict=True) if real)
        if len(names) != count:
            raise ShapeError(f"view: tokens[{index}] has {len(names)} strings; the sequence has q_len={len(keep)}, {count} of them real.")
        return names
    if ids is None:
        return tuple(f"#{place}" for place in range(count))
    return tuple(map(str, ids.tolist() if tokenizer is None else tokenizer.convert_ids_to_tokens(ids.tolist())))
