"""What a stopped run left in its folder (settings and journal), checked before it is used."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attviz.errors import ArgumentError, FormatError
from attviz.files import check_input
from attviz.records import Document

_MARK = {"attviz": "a stopped run", "version": 2}
_MOST_LAYERS, _MOST_HEADS = 100_000, 1_000_000


def text_hash(text: str) -> str:
    """A short hash of a text, to check on resuming that the data set is still the same."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Entry:
    """A document on disk: its index in the data set, and what a resumed run compares."""

    number: int
    num_tokens: int
    num_bytes: int
    text: str
    name: str
    label: int | None

    @classmethod
    def of(cls, number: int, document: Document, num_bytes: int, content: str | None = None) -> Entry:
        """The entry of a document; ``content`` names an input that is not a text."""
        text = content or text_hash(document.text)
        return cls(number, len(document.tokens), num_bytes, text, text_hash(document.name), document.label)

    def plain(self) -> list[Any]:
        """As plain data for JSON."""
        return [self.number, self.num_tokens, self.num_bytes, self.text, self.name, self.label]


def encode_run(settings: Mapping[str, str]) -> bytes:
    """The content of ``run.json``: our mark, and the settings of the run."""
    return json.dumps(_MARK | {"settings": dict(settings)}).encode("ascii")


def check_same_run(folder: Path, settings: Mapping[str, str]) -> None:
    """Refuse to continue in a folder that is not ours, or that holds another run.

    Raises:
        ArgumentError: The message names every setting that differs.
        FormatError: If the folder is damaged.
    """
    if told := different(settings_of(folder), settings):
        raise ArgumentError(
            f"{folder} holds a stopped run that differs from this one ({told}). "
            "Run the same command as before to resume it, or remove the folder to start over."
        )


def different(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Every setting that differs between two runs, with both values; empty if none does."""
    other = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return "; ".join(_difference(name, before.get(name), now.get(name)) for name in other)


def entries_of(line: Mapping[str, Any], folder: Path) -> list[Entry]:
    """The documents of a line of the journal.

    Raises:
        FormatError: If they are not what attviz writes.
    """
    try:
        entries = [Entry(*fields) for fields in line["documents"]]
        numbers = [value for entry in entries for value in (entry.number, entry.num_tokens, entry.num_bytes)]
        if not all(type(value) is int and 0 <= value < 1 << 60 for value in numbers):
            raise ValueError("not a size")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, type(error).__name__) from error
    return entries


def shape_of(line: Mapping[str, Any], folder: Path) -> tuple[tuple[str, ...], int]:
    """Layers and heads that the first line of the journal names.

    Raises:
        FormatError: If they are not what attviz writes.
    """
    layers, num_heads = line.get("layers"), line.get("num_heads")
    if not isinstance(layers, list) or len(layers) > _MOST_LAYERS or not all(isinstance(layer, str) for layer in layers):
        raise _damaged(folder, "layers")
    if type(num_heads) is not int or not 0 <= num_heads <= _MOST_HEADS:
        raise _damaged(folder, "heads")
    return tuple(layers), num_heads


def check_sizes(sizes: Sequence[int], entries: Sequence[Entry], shape: tuple[int, int, int], folder: Path) -> None:
    """Check that the columns have the bytes that the documents need; ``shape`` is (num_layers, num_heads, bytes per value).

    Raises:
        FormatError: If they do not.
    """
    tokens, details = sum(entry.num_tokens for entry in entries), sum(entry.num_bytes for entry in entries)
    num_layers, num_heads, item = shape
    if list(sizes) != [tokens * num_layers * num_heads * item, tokens * 8, tokens * 16, tokens, details]:
        raise _damaged(folder, "sizes")


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of a stopped run.

    Raises:
        ArgumentError: If the folder is not one of ours.
        FormatError: If it is damaged.
    """
    run = folder / "run.json"
    not_ours = f"{folder}: exists and is not a stopped run of attviz, so it is left alone. Move it away, or choose another output."
    if not stat.S_ISDIR(os.lstat(folder).st_mode) or not os.path.lexists(run) or os.path.islink(run):
        raise ArgumentError(not_ours)
    check_input(run, "the settings of a stopped run", max_bytes=16 << 20)
    try:
        found = json.loads(run.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{run}: damaged ({type(error).__name__}). Remove the folder {folder} to start over.") from error
    if not isinstance(found, dict) or {name: found.get(name) for name in _MARK} != _MARK or not isinstance(found.get("settings"), dict):
        raise ArgumentError(f"{not_ours} (A run stopped under an older attviz must be finished with that version.)")
    return dict(found["settings"])


def _damaged(folder: Path, what: str) -> FormatError:
    return FormatError(f"{folder}/journal: damaged ({what}). Remove the folder {folder} to start over.")


def _difference(name: str, before: Any, now: Any) -> str:
    """How a setting differs; for a table (the model's configuration, versions), the entries that differ."""
    try:
        old, new = json.loads(before), json.loads(now)
    except (TypeError, ValueError, RecursionError):
        old = new = None
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"{name}: was {_short(before)}, now {_short(now)}"
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return ", ".join(f"{name}.{key}: was {_short(old.get(key))}, now {_short(new.get(key))}" for key in keys)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
