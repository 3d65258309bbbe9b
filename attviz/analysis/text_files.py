"""Rows of text files: CSV, TSV, JSON lines, plain lines. Irregularities are counted; an error names its line."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attviz.errors import ArgumentError, FormatError
from attviz.files import check_input

STDIN = "-"
_LONGEST_FIELD = 2**31 - 1
_MAGIC = {
    b"PAR1": "a Parquet file: name it .parquet, or say --format parquet",
    b"ARROW1": "an Arrow file: name it .arrow, or say --format arrow",
    b"PK\x03\x04": "a ZIP archive (or a spreadsheet): unpack it, or export the sheet as CSV",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"(\xb5/\xfd": "compressed by zstd: unpack it first",
    b"%PDF": "a PDF: extract its text first",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """A table as it is read.

    Attributes:
        rows: One mapping per row.
        columns: Names of the columns.
        oddities: Irregularities and their counts.
    """

    rows: Iterable[Mapping[str, Any]]
    columns: list[str]
    oddities: Mapping[str, int] = field(default_factory=dict)


def read_text(path: str | Path, encoding: str | None) -> str:
    """The whole text of a file, or of the standard input (``-``).

    Raises:
        FormatError: If it is not a regular file, or not in this encoding.
        ArgumentError: If there is no such encoding.
    """
    if str(path) == STDIN:
        raw = sys.stdin.buffer.read()
    else:
        check_input(path, "a data set")
        raw = Path(path).read_bytes()
    where = "standard input" if str(path) == STDIN else str(path)
    check_magic(raw, where)
    with decoding(where, encoding, lambda error: f"byte {error.start}"):
        return raw.decode(encoding or "utf-8-sig")


def check_magic(raw: bytes, where: str) -> None:
    """Refuse a file that is not text, judging by its first bytes.

    Raises:
        FormatError: The message says what it is.
    """
    for magic, what in _MAGIC.items():
        if raw.startswith(magic):
            raise FormatError(f"{where}: this is {what}.")


@contextmanager
def decoding(where: str, encoding: str | None, place: Callable[[UnicodeDecodeError], str]) -> Iterator[None]:
    """Turn decoding errors inside into errors of attviz.

    Raises:
        FormatError: If the text is not in this encoding.
        ArgumentError: If there is no such encoding.
    """
    try:
        yield
    except LookupError as error:
        if isinstance(error, (KeyError, IndexError)):
            raise
        raise ArgumentError(f"encoding {encoding!r} is unknown to Python; use one such as utf-8, cp1252, utf-16 or shift_jis.") from error
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding is None else encoding
        cure = "Specify its encoding (encoding=, --encoding cp1252), or convert it, for example with iconv."
        raise FormatError(f"{where}: not {name} ({place(error)}: {error.reason}). {cure}") from error


def delimited(text: str, delimiter: str, where: str) -> Rows:
    """Rows of CSV or TSV.

    Raises:
        FormatError: If a quote is never closed, which would swallow everything after it, or the csv module refuses a line.
    """
    with long_fields():
        lines = CsvLines(io.StringIO(text, newline=""))
        reader = csv.reader(lines, delimiter=delimiter)
        columns: list[str] | None = None
        rows: list[dict[str, Any]] = []
        odd: Counter[str] = Counter()
        try:
            for fields in reader:
                if columns is None:
                    columns = fields
                elif fields:
                    lines.count(fields, columns, odd)
                    rows.append(dict(zip(columns, fields, strict=False)))
                lines.record_ends()
        except csv.Error as error:
            raise FormatError(f"{where}: line {reader.line_num}: {error}.") from error
        lines.check_closed(delimiter, where)
    return Rows(rows, columns or [], {name: count for name, count in odd.items() if count})


class CsvLines:
    """The lines of a CSV file; keeps those of the last record, because the csv module does not report a quote left open at the end."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = enumerate(lines, start=1)
        self._record: list[str] = []
        self._last: list[str] = []
        self.started = 0

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            if not self._record:
                self.started = number
            self._record.append(line)
            yield line

    def record_ends(self) -> None:
        """Note that the lines so far formed a row."""
        self._last, self._record = self._record, []

    def count(self, fields: list[str], columns: list[str], odd: Counter[str]) -> None:
        """Count a row that is longer or shorter than the first."""
        if len(fields) != len(columns):
            odd[f"rows with {'more' if len(fields) > len(columns) else 'fewer'} fields than columns"] += 1

    def check_closed(self, delimiter: str, where: str) -> None:
        """Refuse a last record that ends inside a quote.

        Raises:
            FormatError: The message has the line where it begins.
        """
        if self._unclosed(delimiter):
            raise FormatError(f"{where}: line {self.started}: a quote is opened but never closed. Close it, or double it inside a text.")

    def _unclosed(self, delimiter: str) -> bool:
        try:
            for _ in csv.reader(self._last, delimiter=delimiter, strict=True):
                pass
        except csv.Error as error:
            return "unexpected end of data" in str(error)
        return False


@contextmanager
def long_fields() -> Iterator[None]:
    """Allow long fields: the csv module refuses those above 128 kB, which documents easily exceed."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def json_lines(text: str, where: str) -> Rows:
    """Rows of JSON lines: an object or a string each.

    Raises:
        FormatError: If a line is neither.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        rows.append(parsed_json(line, number, where))
    return Rows(rows, list(dict.fromkeys(name for row in rows for name in row)))


def parsed_json(line: str, number: int, where: str) -> dict[str, Any]:
    """One line of JSON lines.

    Raises:
        FormatError: If it is neither an object nor a string.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: line {number} is not JSON: {error}.") from error
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, dict):
        raise FormatError(f"{where}: line {number} must be an object or a string, got {type(row).__name__}.")
    return row


def plain_lines(text: str) -> Rows:
    """One text per non-blank line."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    kept = [line for line in lines if line.strip()]
    blank = len(lines) - len(kept) - (not lines[-1].strip())  # the end of the last line begins none
    return Rows([{"text": line} for line in kept], ["text"], {"blank lines left out": blank} if blank > 0 else {})
