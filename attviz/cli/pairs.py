"""Make the page that shows which token attends to which in a few texts: head view, model view, neuron view, cross-attention.

attviz pairs all-MiniLM-L6-v2 "The bank by the river flooded." -o pairs.html --open
attviz pairs gpt2 --file prompts.txt --layers 5,6
attviz pairs google-t5/t5-small "translate English to German: good day" --target "guten Tag"
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

from attviz.cli.lists import add_selectors

HELP = "show which token attends to which in a few texts (BertViz's views, for any model)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz pairs``."""
    parser.add_argument("model", metavar="MODEL", help="a hub id or a local folder")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="one or more texts")
    parser.add_argument("--file", type=Path, metavar="FILE", help="a text file; one text per non-empty line")
    parser.add_argument("--target", action="append", metavar="TEXT", help="for an encoder-decoder: the decoder's input, one per text")
    parser.add_argument("-o", "--output", type=Path, default=Path("pairs.html"), metavar="HTML", help="the page (default: %(default)s)")
    parser.add_argument("--max-length", type=int, metavar="N", help="longest text in tokens (default: what the model allows)")
    add_selectors(parser, "layers", "heads")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(args: argparse.Namespace) -> int:
    """Run the texts and write the page; its path goes to stdout."""
    from attviz.analysis.models import load_model
    from attviz.analysis.pairs import pairs

    texts = list(args.texts)
    if args.file is not None:
        texts += [line for line in args.file.read_text(encoding="utf-8").splitlines() if line.strip()]
    model, tokenizer = load_model(args.model)
    page = pairs(model, tokenizer, texts, targets=args.target, max_length=args.max_length, layers=args.layers, heads=args.heads)
    path = page.save(args.output)
    print(path, flush=True)
    print(f"{page!r}; open it in a browser, it needs no network access", file=sys.stderr)
    if args.open:
        webbrowser.open(path.resolve().as_uri())
    return 0
