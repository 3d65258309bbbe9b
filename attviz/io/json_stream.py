"""A large JSON file, read entry by entry: memory holds one entry of the root, of limited size, never the whole file."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attviz.errors import FormatError
from attviz.files import check_input, open_regular

_FIRST, _MOST = 1 << 20, 24 << 20  # characters of an entry; JSON of 24 MiB becomes at most some 600 MB of Python objects
_BLANK = " \t\n\r"
_SCALARS = {'"': "a string", "t": "true or false", "f": "true or false", "n": "null"}


def root_entries(path: Path, *, max_bytes: int) -> Iterator[tuple[str | None, Any]]:
    """Entries of a list, or of an object with their keys.

    Args:
        path: The file, in UTF-8.
        max_bytes: Refuse larger files.

    Yields:
        (None or the key, the parsed entry).

    Raises:
        FormatError: If it is not a regular file, too large, not JSON, or neither a list nor an object.
    """
    check_input(path, "a JSON file", max_bytes=max_bytes)
    with os.fdopen(open_regular(path, "a JSON file"), "rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as text:
        try:
            yield from _Entries(text).walk()
        except RecursionError as error:
            raise FormatError(f"{path}: nested too deeply to be an AttViz file.") from error
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error
        except ValueError as error:  # not UTF-8, or a number of thousands of digits
            raise FormatError(f"{path}: not JSON: {error}.") from error


class _Entries:
    """A window that moves over the text, entry by entry."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text, self._ended = text, False
        self._window, self._place, self._before = "", 0, 0

    def walk(self) -> Iterator[tuple[str | None, Any]]:
        opening = self._next()
        if opening not in ("[", "{"):
            kind = _SCALARS.get(opening, "a number" if opening.isdigit() or opening == "-" else repr(opening) if opening else "nothing")
            raise FormatError(f"the root must be a list of documents, got {kind}.")
        closing = "]" if opening == "[" else "}"
        self._place += 1
        first = True
        while (char := self._next()) != closing:
            if not first:
                self._take(",")
            elif not char:
                raise self._fault("ends too early")
            first = False
            key = self._key() if opening == "{" else None
            yield key, self._value()
        self._place += 1
        if self._next():
            raise self._fault("there is something after the end")

    def _key(self) -> str:
        if self._next() != '"':
            raise self._fault("a name in quotes is missing")
        key = self._value()
        self._take(":")
        return str(key)

    def _take(self, char: str) -> None:
        if self._next() != char:
            raise self._fault(f"{char!r} is missing")
        self._place += 1

    def _next(self) -> str:
        """The next non-blank character, without consuming it; '' at the end."""
        while True:
            while self._place < len(self._window):
                if self._window[self._place] not in _BLANK:
                    return self._window[self._place]
                self._place += 1
            if self._ended:
                return ""
            self._more(_FIRST)

    def _value(self) -> Any:
        self._next()
        wanted = _FIRST
        while True:
            self._more(wanted)
            try:
                value, end = json.JSONDecoder().raw_decode(self._window, self._place)
            except json.JSONDecodeError as error:
                if not self._cut_off(error):
                    raise self._fault(f"{error.msg} at character {self._before + error.pos}") from error
            else:
                if end < len(self._window) or self._ended:
                    self._place = end
                    return value
            if wanted == _MOST:
                raise self._fault(f"an entry of more than {_MOST} characters")
            wanted = _MOST

    def _cut_off(self, error: json.JSONDecodeError) -> bool:
        """Whether an error may only be due to the end of the window."""
        return not self._ended and (error.msg.startswith("Unterminated") or error.pos > len(self._window) - 16)

    def _more(self, wanted: int) -> None:
        """Extend the window to hold that many characters from here on, or all that are left."""
        if self._ended or len(self._window) - self._place >= wanted:
            return
        rest = self._window[self._place :]
        added = self._text.read(wanted - len(rest))
        self._before += self._place
        self._window, self._place = rest + added, 0
        self._ended = len(added) < wanted - len(rest)

    def _fault(self, what: str) -> FormatError:
        return FormatError(f"not JSON: {what} (character {self._before + self._place}).")
