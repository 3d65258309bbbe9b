"""See attviz work: a small model, a few short texts, numbers in the terminal, figures and a page in a folder.

Without options the demo takes all-MiniLM-L6-v2 from the installed package (no network; its weights are verified first)
and built-in texts. Try your own text, file or model:

  attviz demo --text "The bank raised its rates." --text "They sat on the bank."
  attviz demo --file notes.txt --model distilbert-base-uncased -o tour/
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from attviz.cli.model_options import model_arguments

HELP = "see it work: numbers, figures and a page from a small model"

TEXTS = (
    "The old bridge over the river was closed after the storm.",
    "The bank by the river flooded, so the bank in the town stayed open late.",
    "Seven tiny transformers politely refused to attend to themselves.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz demo``."""
    parser.add_argument("--text", action="append", metavar="TEXT", help="a text of your own; may be repeated")
    parser.add_argument("--file", type=Path, metavar="FILE", help="a text file; one text per non-empty line")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", metavar="MODEL", help="a hub id or a local folder (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("attviz-demo"), metavar="DIR", help="folder (default: %(default)s)")
    model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of tables")
    parser.add_argument("--special", action="store_true", help="count [CLS], [SEP] and the like, which are left out by default")
    parser.add_argument("--no-figures", action="store_true", help="print only")


def run(args: argparse.Namespace) -> int:
    """Load, analyse, print, draw, write the page."""
    texts = _texts(args)
    _say(f"loading {args.model} ...")
    from attviz.analysis import analyze
    from attviz.analysis.models import load_model

    model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code, allow_pickle=args.allow_pickle)
    analysis = analyze(model, tokenizer, texts, precision="float32")
    _print_tables(analysis, as_json=args.json, special=args.special)
    if args.no_figures:
        return 0
    from attviz import io
    from attviz.analysis.figures import write_figures

    args.output.mkdir(parents=True, exist_ok=True)
    written = [io.write(analysis, args.output / f"demo{suffix}", overwrite=True) for suffix in (".attviz", ".json", ".tex")]
    for path in write_figures(analysis, args.output, documents=slice(None), special=args.special):
        _say(f"drawn {path}")
        written.append(path)
    page = _page(analysis, args.output / "demo.html")
    written.append(page)
    _say(f"{len(written)} files in {args.output}/; start with {_first_picture(written)},")
    _say(f"and open {page} in a browser.")
    _say(f"Next: attviz plot {args.output / 'demo.attviz'} -o figures/")
    return 0


def _page(analysis: object, path: Path) -> Path:
    from attviz.viewer import view

    return view(analysis, precision="f32").save(path)


def _texts(args: argparse.Namespace) -> list[str]:
    from attviz.errors import ArgumentError

    texts = list(args.text or [])
    if args.file is not None:
        lines = [line.strip() for line in args.file.read_text(encoding="utf-8", errors="replace").splitlines()]
        texts += [line for line in lines if line]
        if not texts:
            raise ArgumentError(f"{args.file} contains no text.")
    return texts or list(TEXTS)


def _print_tables(analysis: object, *, as_json: bool, special: bool) -> None:
    from attviz import insights
    from attviz.cli.table import token_rows, token_table
    from attviz.records import Analysis
    from attviz.spelling import printable

    assert isinstance(analysis, Analysis)
    if as_json:
        documents = [{"text": document.text, "tokens": token_rows(document, special=special)} for document in analysis.documents]
        told = [{"name": one.name, "text": one.text, "null": one.null, "value": one.value} for one in insights(analysis)]
        print(json.dumps({"model": analysis.model_name, "layers": list(analysis.layers), "insights": told, "documents": documents}))
        return
    num_heads = analysis.documents[0].diagonal.shape[1]
    print(f"Attention of each token to its own position; aggregates over {len(analysis.layers)} layers x {num_heads} heads.")
    for document in analysis.documents:
        print(f"\n{printable(document.text, keep=chr(10))}\n\n{token_table(document, special=special)}")
    print("\nWhat stands out (special tokens left out):")
    for one in insights(analysis):
        print(f"- {printable(one.text)}\n  {one.null}")


def _first_picture(written: list[Path]) -> str:
    pictures = [path for path in written if path.suffix == ".png"]
    return str(next((path for path in pictures if path.name.startswith("sequence")), pictures[0] if pictures else written[0]))


def _say(message: str) -> None:
    print(message, file=sys.stderr)
