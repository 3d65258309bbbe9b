"""Data sets: CSV, TSV, JSON lines, text, Parquet, Arrow, folders of these, standard input, and Hugging Face ``datasets``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, tee
from pathlib import Path
from typing import Any

from attviz.analysis.table_files import arrow, parquet, saved_dataset
from attviz.analysis.text_files import STDIN, Rows, delimited, json_lines, plain_lines, read_text
from attviz.errors import ArgumentError, FormatError

FORMATS = ("csv", "tsv", "jsonl", "text", "parquet", "arrow")
_FORMAT_OF = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
TEXT_COLUMNS = ("text", "text_a", "sentence", "content", "document")
_LABEL_COLUMNS = ("label", "labels", "class")


@dataclass(frozen=True, slots=True)
class TextTable:
    """Texts with their labels and names, ready for :func:`attviz.analyze`.

    Attributes:
        texts: In the order of the file; a list, or an iterator if the source streams.
        labels: Indices or names of classes, None where unknown; None if there is no such column.
        label_names: Sorted, if labels are names.
        names: File names or row numbers.
        oddities: Irregularities in the file and their counts, such as rows with too many fields or blank lines.
    """

    texts: Any
    labels: Any
    label_names: tuple[str, ...] | None
    names: Any
    oddities: Mapping[str, int] = field(default_factory=dict)


def read_texts(
    source: Any,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    encoding: str | None = None,
    format: str | None = None,
) -> TextTable:
    """Read a data set.

    Args:
        source: A path: ``.csv``, ``.tsv``, ``.jsonl`` (one object or string per line), ``.parquet``, ``.arrow``, any other file (one text
            per
            line), a folder of ``.txt`` files (one text each), of ``.parquet`` or ``.arrow`` files (shards, in the order of their names), or
            one that ``datasets`` saved; ``"-"`` for standard input. Or a Hugging Face data set; a streaming one is read as it is needed.
        text_column: The column of the texts; None tries ``text``, ``text_a``, ``sentence``, ``content`` or ``document``.
        label_column: The column of the classes; None uses ``label``, ``labels`` or ``class`` if there is one.
        encoding: Encoding of text files, such as ``"cp1252"``; None is UTF-8.
        format: One of ``"csv"``, ``"tsv"``, ``"jsonl"``, ``"text"``, ``"parquet"``, ``"arrow"``; None goes by the suffix.

    Returns:
        The texts.

    Raises:
        FormatError: If a column is missing (the message lists the columns), a line cannot be read, a quote never closes, or there is no
            text.
        ArgumentError: If there is no such format or encoding.
        OSError: If the file cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise ArgumentError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.")
    if hasattr(source, "column_names"):
        return _dataset(source, text_column, label_column, "the data set")
    if str(source) == STDIN:
        return _one_file(STDIN, format or "text", encoding, text_column, label_column)
    path = Path(source)
    if path.is_dir():
        return _folder(path, encoding, text_column, label_column)
    return _one_file(path, format or format_of(path), encoding, text_column, label_column)


def _one_file(path: str | Path, format: str, encoding: str | None, text: str | None, label: str | None) -> TextTable:
    where = "standard input" if str(path) == STDIN else str(path)
    if format in _BINARY:
        if str(path) == STDIN:
            raise ArgumentError(f"standard input cannot be read as {format}; name a file.")
        rows = _BINARY[format]([Path(path)])
    else:
        content = read_text(path, encoding)
        rows = _READERS[format](content, where)
        if format == "text" and not rows.rows:
            raise FormatError(f"{where}: there is no text in this file.")
    return _table(rows, text, label, where)


_BINARY: dict[str, Callable[[Sequence[Path]], Rows]] = {"parquet": parquet, "arrow": arrow}
_READERS: dict[str, Callable[[str, str], Rows]] = {
    "csv": lambda text, where: delimited(text, ",", where),
    "tsv": lambda text, where: delimited(text, "\t", where),
    "jsonl": json_lines,
    "text": lambda text, where: plain_lines(text),
}


def _folder(path: Path, encoding: str | None, text: str | None, label: str | None) -> TextTable:
    if any((path / name).exists() for name in ("state.json", "dataset_dict.json", "dataset_info.json")):
        return _dataset(saved_dataset(path), text, label, str(path))
    for suffix, read in ((".parquet", parquet), (".arrow", arrow)):
        if shards := sorted(path.glob(f"*{suffix}")):
            return _table(read(shards), text, label, str(path))
    files = sorted(path.glob("*.txt"))
    if not files:
        raise FormatError(f"{path}: no .txt, .parquet or .arrow file in this folder, and it is not a saved data set.")
    return TextTable([read_text(file, encoding) for file in files], None, None, [file.name for file in files])


def _dataset(source: Any, text: str | None, label: str | None, where: str) -> TextTable:
    columns = source.column_names
    if isinstance(columns, dict):
        raise FormatError(f"{where}: holds several splits ({', '.join(columns)}). Pass one of them.")
    if hasattr(source, "__len__"):
        return _table(Rows(source, list(columns)), text, label, where, names=_class_names(source, label))
    rows = iter(source)
    first = next(rows, None)
    return _streamed(Rows(chain([] if first is None else [first], rows), list(columns or first or ())), text, label, where, source)


def _streamed(table: Rows, text: str | None, label: str | None, where: str, source: Any) -> TextTable:
    """Texts, labels and names of a stream, read one by one and never held all at once."""
    text = column_of(text, TEXT_COLUMNS, table.columns, "text", where)
    label = column_of(label, _LABEL_COLUMNS, table.columns, "label", where, needed=label is not None)
    one, other, third = tee(table.rows, 3)

    def texts() -> Iterator[str]:
        for number, row in enumerate(one):
            yield _text(row, text, number, where)

    labels = None if label is None else (row.get(label) for row in other)
    names = _class_names(source, label)
    return TextTable(texts(), labels, tuple(names) if names else None, (str(number) for number, _ in enumerate(third)))


def _text(row: Mapping[str, Any], column: str, number: int, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise FormatError(f"{where}: row {number} has no text in column {column!r}.")
    return value


def _table(table: Rows, text: str | None, label: str | None, where: str, names: Sequence[str] | None = None) -> TextTable:
    columns = table.columns
    text = column_of(text, TEXT_COLUMNS, columns, "text", where)
    label = column_of(label, _LABEL_COLUMNS, columns, "label", where, needed=label is not None)
    texts: list[str] = []
    raw: list[Any] = []
    for number, row in enumerate(table.rows):
        texts.append(_text(row, text, number, where))
        raw.append(None if label is None else row.get(label))
    if not texts:
        raise FormatError(f"{where}: no row follows the columns {', '.join(columns)}.")
    labels, found = (None, None) if label is None else _labels(raw, where, label)
    return TextTable(texts, labels, tuple(names) if names else found, [str(number) for number in range(len(texts))], table.oddities)


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for."""
    return _FORMAT_OF.get(path.suffix.lower(), "text")


def column_of(asked: str | None, usual: Sequence[str], columns: Sequence[str], what: str, where: str, *, needed: bool = True) -> Any:
    """The column asked for, or the first of the usual names that exists; None if there is none and none is needed.

    Raises:
        FormatError: If it is missing (the message lists the columns), or occurs twice.
    """
    candidates = [asked] if asked is not None else usual
    for name in candidates:
        if columns.count(name) > 1:
            raise FormatError(f"{where}: {columns.count(name)} columns are called {name!r}. Rename all but one.")
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
    """Class names of a Hugging Face data set."""
    features = getattr(dataset, "features", None) or {}
    for name in [column] if column else _LABEL_COLUMNS:
        names = getattr(features.get(name), "names", None)
        if names:
            return list(names)
    return None


def classes_of(table: TextTable, label_names: Sequence[str] | None, model_names: Sequence[str] | None) -> Sequence[str] | None:
    """The class names to use: those passed, else those of the data, else those of the model.

    Raises:
        ArgumentError: If the data name a class that the model does not have.
    """
    if label_names is not None:
        return label_names
    if model_names is not None:
        strangers = sorted({label for label in table.labels or [] if isinstance(label, str) and label not in model_names})
        if strangers:
            raise ArgumentError(
                f"the data have classes that the model does not know: {', '.join(strangers)}; it has {', '.join(model_names)}. "
                "Rename them in the data, or pass the classes in the model's order with label_names= (--label-names)."
            )
        return None
    return table.label_names
