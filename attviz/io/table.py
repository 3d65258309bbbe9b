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
from attviz.selecting import Documents, Heads, Layers, Part, choose_part
from attviz.spelling import printable

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}\N{MINUS SIGN}"


def to_pandas(analysis: Diagonals, *, layers: Layers = None, heads: Heads = None, documents: Documents = None) -> pd.DataFrame:
    """A data frame with one row per token: its position, the token, and one column per head (``L0H3``).

    ``cap.to_pandas()`` is the long form, with one row per value.

    Args:
        analysis: An Analysis, a Capture or Documents.
        layers: Layers to keep: one or several indices, slices, names or glob patterns; None keeps all.
        heads: Heads to keep: one or several indices or slices.
        documents: Documents to keep: one or several indices or slices.

    Raises:
        MissingExtraError: If pandas is not installed.
        UnknownLayerError: If a layer matches nothing.
        ArgumentError: If a head or a document does not exist.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("to_pandas needs pandas: pip install 'attviz[tables]'") from error
    part = choose_part(as_analysis(analysis, "io.to_pandas"), layers, heads, documents, who="io.to_pandas")
    frames = [pd.DataFrame(columns) for columns in _columns(part)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def to_parquet(
    analysis: Diagonals, path: str | os.PathLike[str], *, layers: Layers = None, heads: Heads = None, documents: Documents = None
) -> Path:
    """Write the rows of :func:`to_pandas`, which explains the arguments, as Parquet.

    Raises:
        MissingExtraError: If pandas or pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Parquet needs pyarrow: pip install 'attviz[tables]'") from error
    with replacing(path) as file:
        to_pandas(analysis, layers=layers, heads=heads, documents=documents).to_parquet(file, index=False)
    return Path(path)


def to_csv(
    analysis: Diagonals, path: str | os.PathLike[str], *, layers: Layers = None, heads: Heads = None, documents: Documents = None
) -> Path:
    """Write the rows of :func:`to_pandas`, which explains the arguments, as CSV, document by document.

    A cell that a spreadsheet would run as a formula (it begins with ``= + - @``, plain or full-width, perhaps after blanks) gets a
    leading apostrophe; control characters are made visible. :func:`to_pandas` and :func:`to_parquet` keep text unchanged.

    Raises:
        OSError: If the file cannot be written.
    """
    part = choose_part(as_analysis(analysis, "io.to_csv"), layers, heads, documents, who="io.to_csv")
    with replacing_text(path, newline="", errors="backslashreplace") as file:
        writer = csv.writer(file)
        for number, columns in enumerate(_columns(part)):
            if number == 0:
                writer.writerow(columns)
            writer.writerows(_rows(columns))
    return Path(path)


def _columns(part: Part) -> Iterator[dict[str, Any]]:
    names = [f"L{layer}H{head}" for layer in part.layers for head in part.heads]
    for place, document in zip(part.documents, part.analysis.documents, strict=True):
        count = len(document.tokens)
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
        rows = document.diagonal.astype(np.float32).reshape(len(names), -1)
        yield columns | dict(zip(names, rows, strict=True))


def _rows(columns: dict[str, Any]) -> Iterator[list[Any]]:
    for row in zip(*columns.values(), strict=True):
        yield [_cell(value) if isinstance(value, str) else value for value in row]


def _cell(text: str) -> str:
    """The text with control characters made visible; a formula, even after blanks, gets a leading apostrophe."""
    begins = next((char for char in text if not (char.isspace() or unicodedata.category(char) in ("Cc", "Cf"))), " ")
    return f"'{printable(text)}" if begins in _FORMULA else printable(text)
