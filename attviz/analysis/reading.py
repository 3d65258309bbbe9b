"""Data sets from files: CSV, TSV, JSON lines, text files, folders of them, and Hugging Face ``datasets``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attviz.errors import ArgumentError, FormatError
from attviz.files import check_input

_TEXT_COLUMNS = ("text", "text_a", "sentence", "content", "document")
_LABEL_COLUMNS = ("label", "labels", "class")
_LONGEST_FIELD = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TextTable:
    """Texts with what is known of them, ready for :func:`attviz.analyze`.

    Attributes:
        texts: In the order of the file.
        labels: Indices or names of classes, None where unknown; None altogether where there is no such column.
        label_names: Sorted, where labels are names.
        names: File names or row numbers.
    """

    texts: list[str]
    labels: list[int | str | None] | None
    label_names: tuple[str, ...] | None
    names: list[str]


def read_texts(source: Any, *, text_column: str | None = None, label_column: str | None = None) -> TextTable:
    """Read a data set.

    Args:
        source: A path: ``.csv``, ``.tsv``, ``.jsonl`` (one object or string a line), any other file (one text a line), a folder of
            ``.txt`` files (one text each). Or a Hugging Face data set.
        text_column: The column of the texts; None takes ``text``, ``text_a``, ``sentence``, ``content`` or ``document``.
        label_column: The column of the classes; None takes ``label``, ``labels`` or ``class`` if there is one.

    Returns:
        The texts.

    Raises:
        FormatError: If a column is missing (those found are named), a line cannot be read, or there is no text.
        OSError: If the file cannot be read.
    """
    if hasattr(source, "column_names"):
        return _table(
            source, list(source.column_names), text_column, label_column, "the data set", names=_class_names(source, label_column)
        )
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise FormatError(f"{path}: no .txt file in this folder.")
        return TextTable([_read(file) for file in files], None, None, [file.name for file in files])
    suffix = path.suffix.lower()
    if suffix in {".csv", ".tsv"}:
        rows, columns = _delimited(path, "\t" if suffix == ".tsv" else ",")
        return _table(rows, columns, text_column, label_column, str(path))
    if suffix in {".jsonl", ".ndjson"}:
        rows, columns = _json_lines(path)
        return _table(rows, columns, text_column, label_column, str(path))
    lines = [line.removesuffix("\r") for line in _read(path).split("\n") if line.strip()]
    if not lines:
        raise FormatError(f"{path}: there is no text in this file.")
    return TextTable(lines, None, None, [str(number) for number in range(len(lines))])


def _read(path: Path) -> str:
    check_input(path, "a data set")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 (byte {error.start}: {error.reason}). Convert it, as with iconv.") from error


def _delimited(path: Path, delimiter: str) -> tuple[list[dict[str, Any]], list[str]]:
    with _long_fields():
        reader = csv.DictReader(io.StringIO(_read(path), newline=""), delimiter=delimiter)
        try:
            rows = list(reader)
        except csv.Error as error:
            raise FormatError(f"{path}: line {reader.line_num}: {error}.") from error
    return rows, list(reader.fieldnames or [])


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module refuses fields of more than 128 kB, and a document is soon longer."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _json_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: line {number} is no JSON: {error}.") from error
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise FormatError(f"{path}: line {number} must be an object or a string, got {type(row).__name__}.")
        rows.append(row)
    return rows, list(dict.fromkeys(name for row in rows for name in row))


def _table(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    text: str | None,
    label: str | None,
    where: str,
    names: Sequence[str] | None = None,
) -> TextTable:
    text = _column(text, _TEXT_COLUMNS, columns, "text", where)
    label = _column(label, _LABEL_COLUMNS, columns, "label", where, needed=label is not None)
    texts: list[str] = []
    raw: list[Any] = []
    for number, row in enumerate(rows):
        value = row.get(text)
        if not isinstance(value, str):
            raise FormatError(f"{where}: row {number} has no text in column {text!r}.")
        texts.append(value)
        raw.append(None if label is None else row.get(label))
    if not texts:
        raise FormatError(f"{where}: there is no text below the columns {', '.join(columns)}.")
    labels, found = (None, None) if label is None else _labels(raw, where, label)
    return TextTable(texts, labels, tuple(names) if names else found, [str(number) for number in range(len(texts))])


def _column(asked: str | None, usual: Sequence[str], columns: Sequence[str], what: str, where: str, *, needed: bool = True) -> Any:
    candidates = [asked] if asked is not None else usual
    for name in candidates:
        if name in columns:
            return name
    if not needed:
        return None
    wanted = repr(asked) if asked is not None else "none of " + ", ".join(map(repr, usual))
    found = ", ".join(map(repr, columns)) or "none"
    lacking = f"no column {wanted}" if asked is not None else f"{wanted} is a column"
    raise FormatError(f"{where}: {lacking}; found {found}. Name the {what} column ({what}_column=, or --{what}-column).")


def _labels(raw: Sequence[Any], where: str, column: str) -> tuple[list[int | str | None], tuple[str, ...] | None]:
    """Whole numbers are indices, everything else is a name."""
    given = [None if value is None or value == "" else value for value in raw]
    known = [value for value in given if value is not None]
    if all(isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal()) for value in known):
        return [None if value is None else int(value) for value in given], None
    if not all(isinstance(value, str) for value in known):
        kind = next(type(value).__name__ for value in known if not isinstance(value, str))
        raise FormatError(f"{where}: column {column!r} must hold whole numbers or names of classes, got {kind}.")
    return list(given), tuple(sorted(set(known)))


def _class_names(dataset: Any, column: str | None) -> Sequence[str] | None:
    """Names that a Hugging Face data set gives its classes."""
    features = getattr(dataset, "features", None) or {}
    for name in [column] if column else _LABEL_COLUMNS:
        names = getattr(features.get(name), "names", None)
        if names:
            return list(names)
    return None


def classes_of(table: TextTable, label_names: Sequence[str] | None, model_names: Sequence[str] | None) -> Sequence[str] | None:
    """The names to use: those asked for, those of the data, those of the model.

    Raises:
        ArgumentError: If the data name a class that the model does not have.
    """
    if label_names is not None:
        return label_names
    if model_names is not None:
        strangers = sorted({label for label in table.labels or [] if isinstance(label, str) and label not in model_names})
        if strangers:
            raise ArgumentError(
                f"the data have classes that the model does not know: {', '.join(strangers)}; it knows {', '.join(model_names)}. "
                "Rename them in the data, or give the classes in the model's order with label_names= (--label-names)."
            )
        return None
    return table.label_names
