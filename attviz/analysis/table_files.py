"""Rows of binary tables: Parquet, Arrow, and data sets that Hugging Face ``datasets`` saved to disk; one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attviz.analysis.text_files import Rows
from attviz.errors import AttvizError, FormatError, MissingExtraError
from attviz.files import check_input


def parquet(paths: Sequence[Path]) -> Rows:
    """Rows of Parquet files of the same columns, one file after the other.

    Raises:
        FormatError: If a file is not Parquet, or damaged.
        MissingExtraError: If pyarrow is not installed.
    """
    module = _pyarrow("parquet")
    files = [_opened(path, "a Parquet file", module.ParquetFile) for path in paths]
    return Rows(_batches(paths, files, lambda file: file.iter_batches(batch_size=1024)), list(files[0].schema_arrow.names))


def arrow(paths: Sequence[Path]) -> Rows:
    """Rows of Arrow files (also called Feather), in the file or the stream format.

    Raises:
        FormatError: If a file is not Arrow, or damaged.
        MissingExtraError: If pyarrow is not installed.
    """
    ipc, pyarrow = _pyarrow("ipc"), _pyarrow()

    def opened(path: Path) -> Any:
        with path.open("rb") as raw:
            is_file = raw.read(6) == b"ARROW1"
        source = pyarrow.OSFile(str(path))  # not mapped: a file that is cut short is an error, no signal
        return ipc.open_file(source) if is_file else ipc.open_stream(source)

    files = [_opened(path, "an Arrow file", opened) for path in paths]
    return Rows(_batches(paths, files, _record_batches), list(files[0].schema.names))


def saved_dataset(folder: Path) -> Any:
    """A data set that ``datasets`` saved with ``save_to_disk``.

    Raises:
        FormatError: If it has several splits (they are named), or cannot be read.
        MissingExtraError: If datasets is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"{folder}: a saved data set needs datasets: pip install datasets") from error
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged folder ends in any exception
        raise FormatError(f"{folder}: the saved data set cannot be read ({type(error).__name__}: {str(error)[:200]}).") from error
    if isinstance(found, dict):
        raise FormatError(f"{folder}: holds several splits ({', '.join(found)}). Name one: {folder / next(iter(found), 'train')}.")
    return found


def _record_batches(file: Any) -> Iterator[Any]:
    count = getattr(file, "num_record_batches", None)
    return iter(file) if count is None else (file.get_batch(place) for place in range(count))


def _opened(path: Path, what: str, opener: Any) -> Any:
    check_input(path, what)
    try:
        return opener(path)
    except Exception as error:
        raise FormatError(f"{path}: not {what}, or damaged ({type(error).__name__}: {str(error)[:200]}).") from error


def _batches(paths: Sequence[Path], files: Sequence[Any], batches: Any) -> Iterator[dict[str, Any]]:
    for path, file in zip(paths, files, strict=True):
        try:
            for batch in batches(file):
                yield from batch.to_pylist()
        except AttvizError:
            raise
        except Exception as error:
            raise FormatError(f"{path}: damaged ({type(error).__name__}: {str(error)[:200]}).") from error


def _pyarrow(part: str | None = None) -> Any:
    import importlib

    try:
        return importlib.import_module("pyarrow" if part is None else f"pyarrow.{part}")
    except ImportError as error:
        raise MissingExtraError("Parquet and Arrow need pyarrow: pip install 'attviz[tables]'") from error
