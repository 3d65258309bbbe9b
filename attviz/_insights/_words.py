"""Kinds of tokens, judged by their spelling alone, in any language."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from attviz.spelling import readable_pieces

if TYPE_CHECKING:
    from jaxtyping import Int

CLASSES = ("punctuation", "number", "inside of a word", "capitalised word", "short word", "longer word", "other")


def word_classes(tokens: Sequence[str]) -> Int[np.ndarray, " num_tokens"]:
    """Index into :data:`CLASSES` of every token of a text.

    Example:
        >>> [CLASSES[kind] for kind in word_classes(["The", "bank", "##ing", "of", "1984", "."])]
        ['capitalised word', 'longer word', 'inside of a word', 'short word', 'number', 'punctuation']
    """
    return np.array(
        [2 if piece.continues and piece.text.isalpha() else _spelled(piece.text) for piece in readable_pieces(tokens)], dtype=np.int64
    )


@lru_cache(maxsize=50_000)
def _spelled(text: str) -> int:
    if all(unicodedata.category(char)[0] in "PS" for char in text):
        return 0
    if any(char.isdigit() for char in text) and not any(char.isalpha() for char in text):
        return 1
    if not text[:1].isalpha():
        return 6
    if text[:1].isupper():
        return 3
    return 4 if len(text) <= 3 else 5
