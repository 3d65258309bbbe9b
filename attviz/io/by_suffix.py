"""Which suffix which function writes: one table, for :func:`write` and for ``attviz convert``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from attviz.documents import Diagonals, as_analysis
from attviz.errors import ArgumentError
from attviz.files import check_output
from attviz.io.archive import load, save
from attviz.io.attviz_documents import analysis_of, attviz_documents
from attviz.io.attviz_json import read_attviz_json, write_attviz_json
from attviz.io.latex import write_latex
from attviz.io.table import to_csv, to_parquet
from attviz.records import Analysis
from attviz.selecting import Documents, Heads, Layers, choose_part


def write(
    source: Diagonals,
    path: str | os.PathLike[str],
    *,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    overwrite: bool = False,
) -> Path:
    """Write an analysis to a file; the suffix decides how.

    ``.attviz`` is an archive in float32 (:func:`save`), ``.json`` the AttViz JSON (:func:`write_attviz_json`), ``.csv`` and ``.parquet``
    have one row per token (:func:`to_csv`, :func:`to_parquet`), and ``.tex`` is a document of coloured text (:func:`write_latex`).
    Those functions have further options.

    Args:
        source: The result of :func:`attviz.analyze`, a Capture, or Documents.
        path: The file.
        layers: Layers to write: one or several indices, slices, names or glob patterns; None writes all.
        heads: Heads to write: one or several indices or slices.
        documents: Documents to write: one or several indices or slices.
        overwrite: Replace an existing archive; other files are always replaced.

    Returns:
        The path.

    Raises:
        ArgumentError: If no function writes this suffix, a head or a document does not exist, or the archive exists.
        UnknownLayerError: If a layer matches nothing.
        MissingExtraError: If Parquet is asked for and pandas or pyarrow is not installed.
        OSError: If the file cannot be written.
    """
    writer = WRITERS[check_suffix(path)]
    check_output(path, overwrite=overwrite if writer is _archive else None)
    return writer(as_analysis(source, "io.write"), Path(path), layers, heads, documents)


def read(path: str | os.PathLike[str]) -> Analysis:
    """Read an analysis: the AttViz JSON of a ``.json`` file, else an archive or its shards.

    Raises:
        FormatError: If the file is neither, or damaged.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    return analysis_of(read_attviz_json(path), model_name=path.stem) if path.suffix.lower() == ".json" else load(path)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a path, if a function writes it.

    Raises:
        ArgumentError: If none does; the message lists the suffixes there are.

    Example:
        >>> check_suffix("tokens.CSV")
        '.csv'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise ArgumentError(f"{os.fspath(path)}: the suffix must be one of {', '.join(WRITERS)}; got {suffix or 'none'!r}.")
    return suffix


def _archive(analysis: Analysis, path: Path, layers: Layers, heads: Heads, documents: Documents) -> Path:
    if heads is not None:
        raise ArgumentError(f"{path}: an archive counts its heads from 0, so heads= cannot be kept. Leave it out, or write .csv or .json.")
    part = choose_part(analysis, layers, None, documents, who="io.write")
    return save(part.analysis, path, precision="float32", overwrite=True)  # asked before


def _json(analysis: Analysis, path: Path, layers: Layers, heads: Heads, documents: Documents) -> Path:
    return write_attviz_json(attviz_documents(analysis, layers=layers, heads=heads, documents=documents), path)


def _csv(analysis: Analysis, path: Path, layers: Layers, heads: Heads, documents: Documents) -> Path:
    return to_csv(analysis, path, layers=layers, heads=heads, documents=documents)


def _parquet(analysis: Analysis, path: Path, layers: Layers, heads: Heads, documents: Documents) -> Path:
    return to_parquet(analysis, path, layers=layers, heads=heads, documents=documents)


def _latex(analysis: Analysis, path: Path, layers: Layers, heads: Heads, documents: Documents) -> Path:
    return write_latex(choose_part(analysis, layers, heads, documents, who="io.write").analysis, path)


WRITERS: Mapping[str, Callable[[Analysis, Path, Layers, Heads, Documents], Path]] = MappingProxyType(
    {".attviz": _archive, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".tex": _latex}
)
"""Suffix -> what writes it."""
