"""The non-numerical part of a document in an archive: one JSON object, in which every value is checked before it is used."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from attviz.errors import FormatError
from attviz.records import Document

MAX_BYTES = 24 << 20  # JSON of this size becomes at most some 600 MB of Python objects
MAX_CLASSES = 1_000_000


def encode_details(document: Document) -> bytes:
    """JSON of a document.

    Raises:
        FormatError: If it is larger than a reader would accept.
    """
    probabilities = None if document.probabilities is None else [float(value) for value in document.probabilities]
    details = {
        "text": document.text,
        "tokens": list(document.tokens),
        "name": document.name,
        "label": document.label,
        "prediction": document.prediction,
        "probabilities": probabilities,
        "grid": document.grid,
    }
    encoded = json.dumps(details).encode("ascii")
    if len(encoded) > MAX_BYTES:
        raise FormatError(
            f"document {document.name!r}: its text and tokens take {len(encoded)} bytes; an archive holds {MAX_BYTES} per document. "
            "Split it (long='split', --long split)."
        )
    return encoded


def decode_details(raw: bytes, where: str, num_tokens: int) -> dict[str, Any]:
    """The checked details.

    Args:
        raw: The output of :func:`encode_details`.
        where: File and document, for messages.
        num_tokens: Number of tokens in the archive.

    Raises:
        FormatError: If they cannot be read, or a value is invalid.
    """
    try:
        details = json.loads(raw)
        if not isinstance(details, dict):
            raise TypeError("not an object")
        checked: dict[str, Any] = {name: check(details.get(name)) for name, check in _CHECKS.items()}
        if checked["grid"] is not None and checked["grid"][0] * checked["grid"][1] > num_tokens:
            raise ValueError(f"a grid of {checked['grid']} for {num_tokens} tokens")
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{where}: its details cannot be read ({type(error).__name__}: {str(error)[:200]}).") from error
    if len(checked["tokens"]) != num_tokens:
        raise FormatError(f"{where}: {len(checked['tokens'])} tokens for a diagonal of {num_tokens}. The file is damaged; recreate it.")
    return checked


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text must be a string, got {type(value).__name__}")
    return value


def _tokens(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
        raise TypeError("tokens must be strings")
    return tuple(value)


def _name(value: Any) -> str:
    return "" if value is None else _text(value)


def _class(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 0 <= value < MAX_CLASSES):
        raise ValueError(f"a class must be a whole number from 0 to {MAX_CLASSES - 1}, got {str(value)[:40]}")
    return value


def _probabilities(value: Any) -> np.ndarray | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(
        (type(number) in (int, float) and abs(number) <= 1e30) or number != number for number in value
    ):
        raise TypeError("probabilities must be numbers")
    return np.asarray(value, dtype=np.float32)


def _grid(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int and side > 0 for side in value):
        raise TypeError("a grid must be two whole numbers above 0")
    return value[0], value[1]


_CHECKS = {
    "text": _text,
    "tokens": _tokens,
    "name": _name,
    "label": _class,
    "prediction": _class,
    "probabilities": _probabilities,
    "grid": _grid,
}
