"""Draw figures from an archive that `attviz analyze` made, or from a file of the original AttViz tool (.json).

attviz plot run.attviz -o figures/
attviz plot run.attviz --figures series,sequence --documents 3,17 --formats pdf -o paper/
attviz plot run.attviz --figures token_bars --layers 3 --heads 7
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from attviz.analysis.figures import FIGURES
from attviz.cli.lists import add_list, add_selectors

HELP = "draw figures from an archive"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz plot``."""
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="such as run.attviz, or an AttViz .json")
    add_list(parser, "--figures", str, help=f"all (default), or several of: {', '.join(FIGURES)}")
    parser.add_argument("-o", "--output", type=Path, default=Path("figures"), metavar="DIR", help="folder (default: %(default)s)")
    add_selectors(parser, "layers", "heads", "documents")
    parser.add_argument(
        "--min-count", type=int, metavar="N", help="leave out rarer tokens (default: 5 for a hundred documents or more, else 1)"
    )
    parser.add_argument("--cloud-weight", default="count_top", metavar="W", help="count_top, mean or sum (default: %(default)s)")
    parser.add_argument("--special", action="store_true", help="count [CLS], [SEP] and the like, which are left out by default")
    parser.add_argument("--caption", action="store_true", help="write model and document under each figure")
    add_list(parser, "--formats", str, help="png (default), svg, pdf, ...")
    parser.add_argument("--dpi", type=int, default=160, metavar="N", help="dots per inch (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Draw; the paths go to stdout, one per line."""
    from attviz.analysis.figures import write_figures
    from attviz.io import read

    names = None if not args.figures or "all" in args.figures else args.figures
    analysis = read(args.archive)
    written = 0
    for path in write_figures(
        analysis,
        args.output,
        figures=names,
        layers=args.layers,
        heads=args.heads,
        documents=args.documents,
        min_count=args.min_count,
        cloud_weight=args.cloud_weight,
        special=args.special,
        caption=args.caption,
        formats=args.formats or ["png"],
        dpi=args.dpi,
    ):
        print(path, flush=True)
        written += 1
    print(f"{written} files in {args.output}/", file=sys.stderr)
    return 0
