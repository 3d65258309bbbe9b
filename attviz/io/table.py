"""One row per token, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.documents import Diagonals, as_analysis
from attviz.errors import MissingExtraError
from attviz.files import replacing, replacing_text
from attviz.records import Document
from attviz.spelling import printable

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}\N{MINUS SIGN}"


def to_pandas(analysis: Diagonals) -> pd.DataFrame:
    """A data frame with one row per token: its position, the token, and one column per head (``L0H3``).

    Accepts an Analysis, a Capture or Documents. ``cap.to_pandas()`` is the long form, with one row per value.

    Raises:
        MissingExtraError: If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("to_pandas needs pandas: pip install 'attviz[tables]'") from error
    documents = as_analysis(analysis, "io.to_pandas").documents
    frames = [pd.DataFrame(_columns(place, document)) for place, document in enumerate(documents)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def to_parquet(analysis: Diagonals, path: str | os.PathLike[str]) -> Path:
    """Write the rows of :func:`to_pandas` as Parquet.

    Raises:
        MissingExtraError: If pandas or pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Parquet needs pyarrow: pip install 'attviz[tables]'") from error
    with replacing(path) as file:
        to_pandas(analysis).to_parquet(file, index=False)
    return Path(path)


def to_csv(analysis: Diagonals, path: str | os.PathLike[str]) -> Path:
    """Write the same rows as CSV, document by document.

    A cell that a spreadsheet would run as a formula (it begins with ``= + - @``, plain or full-width, perhaps after blanks) gets a
    leading apostrophe; control characters are made visible. :func:`to_pandas` and :func:`to_parquet` keep text unchanged.

    Raises:
        OSError: If the file cannot be written.
    """
    documents = as_analysis(analysis, "io.to_csv").documents
    with replacing_text(path, newline="", errors="backslashreplace") as file:
        writer = csv.writer(file)
        for place, document in enumerate(documents):
            columns = _columns(place, document)
            if place == 0:
                writer.writerow(columns)
            writer.writerows(_rows(columns))
    return Path(path)


def _columns(place: int, document: Document) -> dict[str, Any]:
    count = len(document.tokens)
    num_layers, num_heads, _ = document.diagonal.shape
    unknown = [None] * count
    columns: dict[str, Any] = {
        "document": [place] * count,
        "name": [document.name] * count,
        "position": list(range(count)),
        "token": list(document.tokens),
        "token_id": unknown if document.token_ids is None else document.token_ids.tolist(),
        "special": unknown if document.special is None else document.special.tolist(),
        "label": [document.label] * count,
        "prediction": [document.prediction] * count,
    }
    values = document.diagonal.astype(np.float32)
    return columns | {f"L{layer}H{head}": values[layer, head] for layer in range(num_layers) for head in range(num_heads)}


def _rows(columns: dict[str, Any]) -> Iterator[list[Any]]:
    for row in zip(*columns.values(), strict=True):
        yield [_cell(value) if isinstance(value, str) else value for value in row]


def _cell(text: str) -> str:
    """The text without control characters; one that a spreadsheet would run as a formula, if only behind blanks, gets an apostrophe."""
    begins = next((char for char in text if not (char.isspace() or unicodedata.category(char) in ("Cc", "Cf"))), " ")
    return f"'{printable(text)}" if begins in _FORMULA else printable(text)
