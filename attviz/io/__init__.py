"""Files in and out: the attviz archive, the AttViz JSON, LaTeX, and tables."""

from attviz.io.archive import ArchiveDocuments, load, save
from attviz.io.attviz_documents import analysis_of, attviz_documents
from attviz.io.attviz_json import parse_attviz, read_attviz_json, write_attviz_json
from attviz.io.by_suffix import WRITERS, read, write
from attviz.io.latex import escape_latex, to_latex, write_latex
from attviz.io.merge import merge
from attviz.io.shard_names import shard_path
from attviz.io.shards import open_shards
from attviz.io.table import to_csv, to_pandas, to_parquet
from attviz.io.verify import ArchiveReport, verify

__all__ = [
    "WRITERS",
    "ArchiveDocuments",
    "ArchiveReport",
    "analysis_of",
    "attviz_documents",
    "escape_latex",
    "load",
    "merge",
    "open_shards",
    "parse_attviz",
    "read",
    "read_attviz_json",
    "save",
    "shard_path",
    "to_csv",
    "to_latex",
    "to_pandas",
    "to_parquet",
    "verify",
    "write",
    "write_attviz_json",
    "write_latex",
]


def __dir__() -> list[str]:
    return sorted(__all__)
