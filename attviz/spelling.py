"""How a tokenizer's pieces are shown to a reader: subword marks, byte alphabets and invisible characters made readable.

Every tokenizer marks word boundaries in its own way: WordPiece writes ``##ing`` for the inside of a word, byte-level BPE writes
``Ġthe`` for its start (and spells bytes in its own alphabet), SentencePiece writes ``▁the``, CLIP ends a word with
``</w>``. A figure, a table or a LaTeX file wants the text, and whether it continues the word before it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# What the page's script takes for special in a file that does not say (frontend/src/model/tokens.ts): the same expression.
_SPECIAL = re.compile(r"^(\[[A-Za-z_ ]+\d*\]|</?[a-zA-Z_]+\d*>|<\|.*\|>)$")
_NAMED_MARKS = re.compile(r"^(\[[A-Z0-9_]+\]|<[^<>\s]{1,40}>|<\|[^|]{1,40}\|>)$")
_VISIBLE = {"\n": "↵", "\r": "␍", "\t": "⇥", " ": "␣", "\u00a0": "␣", "\x00": "␀"}


@dataclass(frozen=True, slots=True)
class Piece:
    """One token as a reader should see it.

    Attributes:
        text: The characters, with invisible ones made visible.
        continues: True if the token continues the word that the previous token began.
    """

    text: str
    continues: bool = False

    @property
    def label(self) -> str:
        """The text as a tick or bar label: a continuation begins with an ellipsis."""
        return f"…{self.text}" if self.continues else self.text


def readable_pieces(tokens: Sequence[str]) -> list[Piece]:
    r"""Spell the tokens of one text (or one vocabulary) as a reader expects them.

    The scheme is recognised from all tokens together, so pass the tokens of a whole text, not one at a time.

    Args:
        tokens: As the tokenizer spells them.

    Returns:
        One piece per token, in order.

    Example:
        >>> [piece.label for piece in readable_pieces(["[CLS]", "token", "##ization", "\n"])]
        ['[CLS]', 'token', '…ization', '↵']
        >>> [piece.label for piece in readable_pieces(["The", "ĠcafÃ©", "s"])]
        ['The', 'café', '…s']
        >>> [piece.label for piece in readable_pieces(["▁un", "like", "ly"])]
        ['un', '…like', '…ly']
    """
    tokens = [str(token) for token in tokens]
    spell = _scheme(tokens)
    pieces = []
    word_open = False
    for token in tokens:
        if _is_mark(token):
            pieces.append(Piece(visible(token)))
            word_open = False
            continue
        text, continues, ends = spell(token, word_open)
        pieces.append(Piece(visible(text), continues))
        word_open = not ends
    return pieces


def special_tokens(tokens: Sequence[str], given: Bool[np.ndarray, " num_tokens"] | None = None) -> Bool[np.ndarray, " num_tokens"]:
    """Which tokens are special: [CLS], [SEP], padding and the like. Page, figures and tables all use this definition.

    Args:
        tokens: As the tokenizer spells them.
        given: What the tokenizer says, which takes precedence. None judges by the spelling.

    Example:
        >>> special_tokens(["[CLS]", "a", "</s>", "<|endoftext|>", "[a"]).tolist()
        [True, False, True, True, False]
    """
    if given is not None:
        return np.array(given, dtype=bool)
    return np.array([bool(_SPECIAL.match(token)) for token in tokens], dtype=bool)


def readable_labels(tokens: Sequence[str]) -> list[str]:
    """The label of every token; see :func:`readable_pieces`."""
    return [piece.label for piece in readable_pieces(tokens)]


def visible(text: str) -> str:
    r"""Replace invisible characters (controls, zero-width and bidirectional marks, lone spaces) with visible ones.

    Example:
        >>> visible("a\u200bb\u202e"), visible("\n"), visible("")
        ('a⟨U+200B⟩b⟨U+202E⟩', '↵', '∅')
    """
    if text == "":
        return "∅"
    if text.isspace():
        return "".join(_VISIBLE.get(char, "␣") for char in text)
    return "".join(char if _joins(text, place) else _visible_character(char) for place, char in enumerate(text))


def _joins(text: str, place: int) -> bool:
    """Whether a joiner is where one belongs: between two emoji, or between letters of a script that needs it."""
    if text[place] not in "\u200c\u200d" or not 0 < place < len(text) - 1:
        return False
    before, after = text[place - 1], text[place + 1]
    if text[place] == "\u200d" and unicodedata.category(after) == "So":
        return unicodedata.category(before) in {"So", "Sk", "Mn"}
    return unicodedata.category(before) in {"Mn", "Lo"} and unicodedata.category(after) in {"Lo", "Mn"} and before > "\u0590"


def printable(text: str, keep: str = "") -> str:
    r"""The text with every character that a terminal, an SVG, a LaTeX file or a table might act on made visible; spaces stay.

    Errors, tables and titles show foreign text through this function; tokens, where a lone space matters, through :func:`visible`.

    Args:
        text: Any text.
        keep: Control characters to leave alone, such as line breaks in a multi-line message.

    Example:
        >>> printable("a\x1b[31mb \u202e\n"), printable("a\nb\x07", keep="\n")
        ('a⟨U+001B⟩[31mb ⟨U+202E⟩↵', 'a\nb⟨U+0007⟩')
    """
    return "".join(char if char in keep or char.isprintable() else _visible_character(char) for char in text)


def display_width(text: str) -> int:
    """Columns that the text occupies in a fixed-width font: two for wide East Asian characters, none for combining marks.

    Example:
        >>> display_width("abc"), display_width("注意"), display_width("e\u0301")
        (3, 4, 1)
    """
    return sum(_character_width(char) for char in text)


def _character_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shorten(text: str, columns: int) -> str:
    """Cut the middle out of a text that is too wide, so that both ends stay readable.

    Example:
        >>> shorten("internationalization", 9)
        'inte…tion'
    """
    if display_width(text) <= columns:
        return text
    head, tail = _prefix(text, columns // 2), _prefix(text[::-1], (columns - 1) // 2)[::-1]
    return f"{head}…{tail}"


def _prefix(text: str, columns: int) -> str:
    used = 0
    for place, char in enumerate(text):
        used += _character_width(char)
        if used > columns:
            return text[:place]
    return text


def _visible_character(char: str) -> str:
    if char in "\n\r\t\x00":
        return _VISIBLE[char]
    if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return f"⟨U+{ord(char):04X}⟩"
    return " " if char.isspace() else char


def _is_mark(token: str) -> bool:
    return bool(_NAMED_MARKS.match(token)) and not _BYTE_PIECE.fullmatch(token)


def _scheme(tokens: Sequence[str]) -> Callable[[str, bool], tuple[str, bool, bool]]:
    """The function that reads one token: (text, continues a word, ends it)."""
    words = [token for token in tokens if not _is_mark(token)]
    if any(token.startswith("##") and len(token) > 2 for token in words):
        return _wordpiece
    if any(token.endswith("</w>") for token in words):
        return _end_of_word
    if any("▁" in token for token in words):
        return _sentencepiece
    if any(token[:1] in {"Ġ", "Ċ", "ĉ"} for token in words) and all(_BYTE_OF.keys() >= set(token) for token in words):
        return _byte_level
    return _plain


def _plain(token: str, word_open: bool) -> tuple[str, bool, bool]:
    return token, False, True


def _wordpiece(token: str, word_open: bool) -> tuple[str, bool, bool]:
    continues = token.startswith("##") and len(token) > 2
    return (token[2:] if continues else token), continues, False


def _end_of_word(token: str, word_open: bool) -> tuple[str, bool, bool]:
    ends = token.endswith("</w>")
    return token.removesuffix("</w>"), word_open, ends


def _sentencepiece(token: str, word_open: bool) -> tuple[str, bool, bool]:
    if _BYTE_PIECE.fullmatch(token):
        return _from_bytes(bytes([int(token[3:5], 16)])), False, False
    if not token.startswith("▁"):
        return token.replace("▁", " "), word_open, False
    return token.replace("▁", " ").removeprefix(" ") or " ", False, token.strip("▁") == ""


def _byte_level(token: str, word_open: bool) -> tuple[str, bool, bool]:
    text = _from_bytes(bytes(_BYTE_OF[char] for char in token))
    starts = not word_open or text[:1].isspace() or not text[:1].isalnum()
    return (text[1:] if text.startswith(" ") and len(text) > 1 else text), not starts, text.isspace()


def _from_bytes(spelled: bytes) -> str:
    """Decode UTF-8; bytes that are only part of a character are shown in hexadecimal."""
    return "".join(
        f"⟨{ord(char) - 0xDC00:02X}⟩" if "\udc80" <= char <= "\udcff" else char for char in spelled.decode("utf-8", "surrogateescape")
    )


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE writes for each byte: printable Latin-1 as itself, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
