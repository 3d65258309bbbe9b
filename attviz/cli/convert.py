"""Turn an archive, or a file of the original AttViz tool, into another format.

The suffixes decide: .attviz (archive), .json (AttViz JSON), .csv, .parquet (one row per token), .tex (coloured text).

  attviz convert run.attviz run.json                          for the original AttViz page
  attviz convert run.attviz run.json --layers 3 --heads 7     only layer 3 head 7
  attviz convert explanations.json run.attviz                 and back: then `attviz plot run.attviz`
  attviz convert run.attviz text.tex --documents 5            a coloured text for a paper
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from attviz.cli.lists import add_selectors

HELP = "convert to and from AttViz JSON, LaTeX, CSV, Parquet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz convert``."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help=".attviz or .json")
    parser.add_argument("target", type=Path, metavar="TARGET", help=".attviz, .json, .csv, .parquet or .tex")
    add_selectors(parser, "layers", "heads", "documents")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing archive (other files are always replaced)")


def run(args: argparse.Namespace) -> int:
    """Read, choose, write."""
    from attviz.files import check_output
    from attviz.io import read, write
    from attviz.io.by_suffix import check_suffix
    from attviz.selecting import choose_documents

    is_archive = check_suffix(args.target) == ".attviz"
    check_output(args.target, inputs=[args.source], overwrite=args.overwrite if is_archive else None)
    analysis = read(args.source)
    write(analysis, args.target, layers=args.layers, heads=args.heads, documents=args.documents, overwrite=args.overwrite)
    count = len(choose_documents(len(analysis.documents), args.documents)) if analysis.documents else 0
    print(args.target)
    print(f"{count} document{'s' * (count != 1)}", file=sys.stderr)
    return 0
