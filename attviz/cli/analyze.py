"""Run a data set through a transformer and keep the self-attention of every token, layer and head.

MODEL is a hub id, a local folder, or all-MiniLM-L6-v2 (in the `demo` extra). DATA is a .csv, .tsv, .jsonl, .parquet or .arrow
file, a file with one text per line, a folder of .txt files or of .parquet or .arrow shards, a data set that `datasets` saved,
or - for standard input. Truncated, empty and repeated texts are counted and reported. A run that was stopped (Ctrl-C, a full
disk) continues when the same command is given again; a run that differs is refused.

  attviz analyze distilbert-base-uncased-finetuned-sst-2-english reviews.csv -o run.attviz
  attviz analyze ./my-model test.tsv --text-column text_a --label-names business,sport -o run.attviz
  torchrun --nproc-per-node 4 -m attviz analyze ./my-model corpus/ -o run.attviz --device cuda
  attviz analyze ./my-model corpus.jsonl --statistics -o run.stats --device cuda
  attviz analyze all-MiniLM-L6-v2 notes/ --long split --overlap 32 -o notes.attviz --device cuda
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attviz.cli.accumulate import DEFAULT, run_statistics
from attviz.cli.lists import add_list, add_selectors
from attviz.cli.model_options import model_arguments
from attviz.cli.ranks import device_of, is_first, share_of, under_torchrun, wait_for_all

FORMATS = ("csv", "tsv", "jsonl", "text", "parquet", "arrow")
HELP = "run a data set through a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz analyze``."""
    parser.add_argument("model", metavar="MODEL", help="a hub id or a local folder")
    parser.add_argument("data", type=Path, metavar="DATA", help="a file or folder of texts (see above); - reads standard input")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the archive to write, such as run.attviz")
    parser.add_argument("--format", choices=FORMATS, help="format of DATA (default: by its suffix; text for standard input)")
    parser.add_argument("--encoding", metavar="NAME", help="encoding of a text file, such as cp1252 (default: UTF-8)")
    parser.add_argument("--text-column", metavar="NAME", help="column of the texts (default: text, text_a, sentence, content or document)")
    parser.add_argument("--label-column", metavar="NAME", help="column of the classes (default: label, labels or class, if present)")
    add_list(parser, "--label-names", str, help="names of the classes, in the order of their indices")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N texts")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="texts per batch (default: %(default)s)")
    parser.add_argument("--max-length", type=int, metavar="N", help="longest input in tokens (default: what the model allows)")
    parser.add_argument(
        "--long", choices=("truncate", "split"), default="truncate", help="what to do with longer texts (default: %(default)s)"
    )
    parser.add_argument(
        "--overlap", type=int, default=0, metavar="N", help="tokens shared by neighbouring pieces of a split text (default: %(default)s)"
    )
    parser.add_argument("--delimiter", metavar="STRING", help="split every text at this string first; each piece becomes a document")
    add_selectors(parser, "layers")
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "u16", "u8"),
        default="float16",
        help="precision of the stored values; u8 is off by up to 2.8 %% (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="cpu", metavar="DEVICE", help="cpu, cuda, mps, ..., or auto: spread over what is there (default: %(default)s)"
    )
    parser.add_argument("--shard", metavar="I/N|any", help="process I of N; any: take what no other process has (torchrun needs neither)")
    parser.add_argument(
        "--statistics",
        nargs="?",
        const=DEFAULT,
        metavar="A,B,...",
        help=f"no archive: only metrics over all texts, of heads, vocabulary and health (default: {DEFAULT})",
    )
    parser.add_argument("--dry-run", action="store_true", help="report what would be read and how long it would take; write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing archive, at the end")
    model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Read, run, store and report."""
    from attviz.analysis import analyze
    from attviz.analysis.classes import class_names
    from attviz.analysis.reading import classes_of, read_texts
    from attviz.files import check_output

    share = share_of(args.shard)
    if not args.dry_run:
        stopped = share is not None or os.path.lexists(f"{args.output}.part")
        check_output(args.output, inputs=[args.data], overwrite=args.overwrite or (stopped and not under_torchrun()))
    if args.statistics and not args.dry_run:
        return _statistics(args, share)
    columns = {"text_column": args.text_column, "label_column": args.label_column}
    table = read_texts(args.data, **columns, encoding=args.encoding, format=args.format)
    stop = args.limit if args.limit is not None else len(table.texts)
    model, tokenizer = _loaded(args)
    names = classes_of(table, args.label_names, class_names(model, None))
    options = _options(args) | {
        "archive": args.output,
        "overwrite": args.overwrite,
        "label_names": names,
        "labels": None if table.labels is None else table.labels[:stop],
    }
    if args.dry_run:
        from attviz.cli.dry_run import estimate

        _report(estimate(model, tokenizer, table.texts[:stop], table.oddities, options), as_json=args.json, then=None)
        return 0
    options |= {"shard": share, "progress": not args.quiet and is_first()}
    try:
        analysis = analyze(model, tokenizer, table.texts[:stop], names=table.names[:stop], **options)
    except KeyboardInterrupt:
        print(f"\nwhat was done is kept next to {args.output}; run the same command to continue", file=sys.stderr)
        raise
    return _finish(args, analysis, share, table.oddities)


def _statistics(args: argparse.Namespace, share: tuple[int, int] | str | None) -> int:
    model, tokenizer = _loaded(args)
    options = {name: value for name, value in _options(args).items() if name != "precision"}
    summary = run_statistics(args, model, tokenizer, share, options | {"progress": not args.quiet and is_first()})
    if summary is not None:
        waits = share is not None and not under_torchrun()
        then = f"When all shards are done: attviz merge {args.output}" if waits else None
        _report(summary, as_json=args.json, then=then or "Next, in Python: attviz.analysis.read_statistics(...)")
    return 0


def _loaded(args: argparse.Namespace) -> tuple[Any, Any]:
    from attviz.analysis.models import load_model

    allowed = {"trust_remote_code": args.trust_remote_code, "allow_pickle": args.allow_pickle}
    if args.device == "auto":
        return load_model(args.model, **allowed, device_map="auto")
    model, tokenizer = load_model(args.model, **allowed)
    return _moved(model, device_of(args.device)), tokenizer


def _finish(args: argparse.Namespace, analysis: Any, share: tuple[int, int] | str | None, oddities: Mapping[str, int]) -> int:
    """Report the result; under torchrun rank 0 merges first, when all are done."""
    from attviz import io

    output, then = args.output, f"Next: attviz plot {args.output} -o figures/"
    if share is not None and under_torchrun():
        wait_for_all()
        if not is_first():
            return 0
        analysis = io.load(io.merge(args.output, overwrite=args.overwrite, remove=True))
    elif share is not None:
        output, then = getattr(analysis.documents, "path", None), f"When all shards are done: attviz merge {args.output}"
    for what, count in oddities.items():
        print(f"attviz: {count} {what}", file=sys.stderr)
    summary = _summary(analysis, output) | {"odd_rows": dict(oddities)} | _data_counts(analysis)
    _report(summary, as_json=args.json, then=then)
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `analyze`, as keywords."""
    return {
        "batch_size": args.batch_size,
        "max_length": args.max_length,
        "long": args.long,
        "overlap": args.overlap,
        "delimiter": args.delimiter,
        "layers": args.layers,
        "precision": args.precision,
        "progress": not args.quiet,
    }


def _moved(model: Any, device: str) -> Any:
    from attviz.errors import ArgumentError

    try:
        return model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ArgumentError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _summary(analysis: object, output: Path | None) -> dict[str, object]:
    from attviz.records import Analysis

    assert isinstance(analysis, Analysis)
    tokens, labelled, correct, heads = 0, 0, 0, 0
    for document in analysis.documents:
        tokens += len(document.tokens)
        heads = document.diagonal.shape[1]
        if document.label is not None and document.prediction is not None:
            labelled += 1
            correct += document.label == document.prediction
    summary: dict[str, object] = {
        "output": "nothing was left to do" if output is None else str(output),
        "bytes": 0 if output is None else output.stat().st_size,
        "model": analysis.model_name,
        "documents": len(analysis.documents),
        "tokens": tokens,
        "layers": len(analysis.layers),
        "heads": heads,
    }
    return summary | ({"accuracy": correct / labelled} if labelled else {})


def _data_counts(analysis: object) -> dict[str, object]:
    counts = json.loads(analysis.settings["data"])  # type: ignore[attr-defined]
    return {name: counts[name] for name in ("empty", "repeated", "truncated", "lost_tokens")}


def _report(summary: dict[str, object], *, as_json: bool, then: str | None) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    shown = {name: value for name, value in summary.items() if value != {}}
    print("\n".join(f"{name:<12} {value:.4f}" if isinstance(value, float) else f"{name:<12} {value}" for name, value in shown.items()))
    if then is not None:
        print(then, file=sys.stderr)
