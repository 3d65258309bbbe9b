"""The BBC news of the AttViz paper, from the texts to every figure and a report, with one command:

    python examples/bbc/run.py path/to/bbc -o bbc-out

The folder holds ``train.tsv`` and ``test.tsv`` with the columns ``label`` (0 business, 1 entertainment, 2 politics, 3 sport)
and ``text_a``. A model that was fine-tuned before, and an analysis that was stopped, are taken up where they are.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from data import CLASSES, class_words, read_split
from finetune import finetune
from report import findings, write_report

import attviz
from attviz import io
from attviz.analysis.figures import write_figures
from attviz.analysis.models import load_model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train.tsv and test.tsv")
    parser.add_argument("-o", "--output", type=Path, default=Path("bbc-out"))
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="any pretrained encoder (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--occluded", type=int, default=40, help="documents for the comparison with occlusion (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    started = time.monotonic()
    args.output.mkdir(parents=True, exist_ok=True)
    train, test = read_split(args.data / "train.tsv"), read_split(args.data / "test.tsv")
    folder, history = args.output / "model", args.output / "training.json"
    if not history.exists():
        losses = finetune(args.model, train, folder, epochs=args.epochs, max_length=args.max_length)
        history.write_text(json.dumps({"model": args.model, "losses": losses, "documents": len(train.texts)}))
    model, tokenizer = load_model(str(folder))
    archive = args.output / "test.attviz"
    if archive.exists():
        analysis = io.load(archive)
    else:
        analysis = attviz.analyze(model, tokenizer, test.texts, labels=test.labels, max_length=args.max_length, archive=archive)
    for path in write_figures(analysis, args.output / "figures", documents=slice(0, None, max(1, len(analysis.documents) // len(CLASSES)))):
        print(path, file=sys.stderr)
    found = findings(analysis, model, tokenizer, class_words(train), train, occluded=args.occluded)
    report = write_report(found, json.loads(history.read_text()), args.output)
    print(report.read_text())
    print(f"{report} and figures in {args.output / 'figures'}/, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
