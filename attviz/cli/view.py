"""Make the interactive page of an archive, or of an AttViz JSON file: one HTML file that needs no network.

attviz view run.attviz -o heads.html --open
attviz view run.attviz --layers 10,11 --documents :200 -o last.html
attviz view example_bbc_explanations.json -o bbc.html
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path
from typing import Any

from attviz.cli.lists import add_selectors

HELP = "make the interactive page of an archive or an AttViz JSON file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz view``."""
    parser.add_argument("source", type=Path, metavar="FILE", help="an archive (run.attviz), or an AttViz JSON file (*.json)")
    parser.add_argument("-o", "--output", type=Path, metavar="HTML", help="the page (default: FILE with the suffix .html)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--title", metavar="TEXT", help="title of the page (default: the model, or the file)")
    add_selectors(parser, "layers", "heads", "documents")
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="also show which token attends to which (an archive has no query and key: use `attviz pairs` instead)",
    )
    parser.add_argument(
        "--precision", choices=("u16", "u8", "f32"), default="u16", help="bytes per value: 2, 1 or 4 (default: %(default)s)"
    )
    parser.add_argument("--text-only", action="store_true", help="only the tinted text, about a third of the size, for embedding")


def run(args: argparse.Namespace) -> int:
    """Write the page; its path goes to stdout."""
    from attviz.files import check_output
    from attviz.viewer import view

    output = check_output(args.output or args.source.with_suffix(".html"), inputs=[args.source])
    source, title = _read(args.source)
    page = view(
        source,
        title=args.title or title,
        layers=args.layers,
        heads=args.heads,
        documents=args.documents,
        precision=args.precision,
        pairs=args.pairs or None,
        show="text" if args.text_only else "page",
    )
    path = page.save(output)
    print(path, flush=True)
    print(f"{page!r}; open it in a browser, it needs no network access", file=sys.stderr)
    if args.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def _read(path: Path) -> tuple[Any, str | None]:
    """The source and the title it suggests: an archive is named after its model, a JSON file after itself."""
    from attviz import io

    if path.suffix.lower() == ".json":
        return io.read_attviz_json(path), path.stem
    return io.load(path), None
