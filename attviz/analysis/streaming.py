"""Texts of a data set, one at a time and never held: for runs whose memory must not grow with the data."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attviz.analysis.reading import FORMATS, TEXT_COLUMNS, column_of, format_of, read_texts
from attviz.analysis.table_files import arrow, parquet
from attviz.analysis.text_files import STDIN, CsvLines, check_magic, decoding, long_fields, parsed_json
from attviz.errors import ArgumentError, FormatError
from attviz.files import check_input, open_regular

_Row = dict[str, Any]


def stream_texts(
    source: str | Path,
    oddities: Counter[str],
    *,
    text_column: str | None = None,
    encoding: str | None = None,
    format: str | None = None,
) -> Iterator[str]:
    """The texts that :func:`attviz.analysis.reading.read_texts` reads, one at a time.

    Args:
        source: A file, a folder, or ``"-"``.
        oddities: Counts irregularities as they are met.
        text_column: The column of the texts; None tries the usual names.
        encoding: Encoding of text files; None is UTF-8.
        format: One of the formats; None goes by the suffix.

    Raises:
        FormatError, ArgumentError, OSError: As there; for a fault further down in a file, once it is reached.
    """
    if format is not None and format not in FORMATS:
        raise ArgumentError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.")
    path = Path(source)
    if str(source) != STDIN and path.is_dir():
        for suffix, read in ((".parquet", parquet), (".arrow", arrow)):
            if shards := sorted(path.glob(f"*{suffix}")):
                table = read(shards)
                return _column(iter(table.rows), text_column, str(path), table.columns)
        table_of_all = read_texts(path, text_column=text_column, encoding=encoding)  # files of one text each, or a data set on the disk
        return iter(table_of_all.texts)
    form = format or ("text" if str(source) == STDIN else format_of(path))
    if form in ("parquet", "arrow"):
        if str(source) == STDIN:
            raise ArgumentError(f"standard input cannot be read as {form}; name a file.")
        table = (parquet if form == "parquet" else arrow)([path])
        return _column(iter(table.rows), text_column, str(path), table.columns)
    where = "standard input" if str(source) == STDIN else str(source)
    return _column(
        _ROWS[form](_lines(source, encoding, where, "" if form in ("csv", "tsv") else "\n"), where, oddities), text_column, where
    )


def _lines(source: str | Path, encoding: str | None, where: str, newline: str) -> Iterator[str]:
    number = 0
    with ExitStack() as stack:
        if str(source) == STDIN:
            raw: Any = sys.stdin.buffer
        else:
            check_input(source, "a data set")
            raw = stack.enter_context(os.fdopen(open_regular(source, "a data set"), "rb"))
        check_magic(raw.peek(8)[:8], where)
        stack.enter_context(decoding(where, encoding, lambda _: f"behind line {number}"))
        text = io.TextIOWrapper(raw, encoding or "utf-8-sig", newline=newline)
        if str(source) == STDIN:
            stack.callback(text.detach)
        else:
            stack.enter_context(text)
        for line in text:
            number += 1
            yield line


def _plain(lines: Iterator[str], where: str, oddities: Counter[str]) -> Iterator[_Row]:
    for line in lines:
        if line.strip():
            yield {"text": line.removesuffix("\n").removesuffix("\r")}
        else:
            oddities["blank lines left out"] += 1


def _json(lines: Iterator[str], where: str, oddities: Counter[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield parsed_json(line, number, where)


def _delimited(delimiter: str) -> Callable[[Iterator[str], str, Counter[str]], Iterator[_Row]]:
    def rows(lines: Iterator[str], where: str, oddities: Counter[str]) -> Iterator[_Row]:
        kept = CsvLines(lines)
        columns: list[str] | None = None
        try:
            with long_fields():
                for fields in csv.reader(kept, delimiter=delimiter):
                    if columns is None:
                        columns = fields
                    elif fields:
                        kept.count(fields, columns, oddities)
                        yield dict(zip(columns, fields, strict=False))
                    kept.record_ends()
        except csv.Error as error:
            raise FormatError(f"{where}: line {kept.started}: {error}.") from error
        kept.check_closed(delimiter, where)

    return rows


_ROWS: dict[str, Callable[[Iterator[str], str, Counter[str]], Iterator[_Row]]] = {
    "text": _plain,
    "jsonl": _json,
    "csv": _delimited(","),
    "tsv": _delimited("\t"),
}


def _column(rows: Iterator[Any], asked: str | None, where: str, columns: list[str] | None = None) -> Iterator[str]:
    name: str | None = None
    number = -1
    for number, row in enumerate(rows):
        if name is None:
            name = column_of(asked, TEXT_COLUMNS, list(columns or row), "text", where)
        value = row.get(name)
        if not isinstance(value, str):
            raise FormatError(f"{where}: row {number} has no text in column {name!r}.")
        yield value
    if number < 0:
        raise FormatError(f"{where}: the file has no text.")
