"""Turn an archive, or a file of the original AttViz tool, into another format.

The suffixes decide: .attviz (archive), .json (AttViz JSON), .csv, .parquet (one row per token), .tex (coloured text).

  attviz convert run.attviz run.json                 for the original AttViz page
  attviz convert run.attviz run.json --head 3.7      only layer 3 head 7
  attviz convert explanations.json run.attviz        and back: then `attviz plot run.attviz`
  attviz convert run.attviz text.tex --documents 5   a coloured text for a paper
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from attviz.cli.lists import add_list, add_selectors
from attviz.errors import ArgumentError
from attviz.files import check_output, replacing_text
from attviz.records import Analysis
from attviz.selecting import choose_documents
from attviz.spelling import special_tokens

HELP = "convert to and from AttViz JSON, LaTeX, CSV, Parquet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz convert``."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help=".attviz or .json")
    parser.add_argument("target", type=Path, metavar="TARGET", help=".attviz, .json, .csv, .parquet or .tex")
    add_selectors(parser, "documents")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing archive (other files are always replaced)")
    add_list(parser, "--head", str, metavar="L.H,...", help="only these heads, such as 3.7 (layer 3, head 7); for .json and .tex")


def run(args: argparse.Namespace) -> int:
    """Read, choose, write."""
    if args.target.suffix not in _WRITERS:
        raise ArgumentError(f"{args.target}: the suffix must be one of {', '.join(_WRITERS)}; got {args.target.suffix or 'none'!r}.")
    check_output(args.target, inputs=[args.source], overwrite=args.overwrite if args.target.suffix == ".attviz" else None)
    analysis = _chosen(read_analysis(args.source), args.documents)
    _WRITERS[args.target.suffix](analysis, args.target, [head_of(text, analysis) for text in args.head or []] or None)
    print(args.target)
    print(f"{len(analysis.documents)} document{'' if len(analysis.documents) == 1 else 's'}", file=sys.stderr)
    return 0


def read_analysis(source: Path) -> Analysis:
    """An archive, or a file of the original tool, by its suffix."""
    from attviz import io

    if source.suffix == ".json":
        return io.analysis_of(io.read_attviz_json(source), model_name=source.stem)
    return io.load(source)


def _chosen(analysis: Analysis, documents: list[int | slice] | None) -> Analysis:
    if documents is None:
        return analysis
    places = choose_documents(len(analysis.documents), documents, "convert")
    return replace(analysis, documents=[analysis.documents[place] for place in places])


def head_of(text: str, analysis: Analysis) -> tuple[int, int]:
    """(layer, head) of ``"3.7"``, if the analysis has it."""
    layer, dot, head = text.partition(".")
    if not (dot and layer.isdecimal() and head.isdecimal()):
        raise ArgumentError(f"--head must be like 3.7 (layer 3, head 7), got {text!r}.")
    shape = analysis.documents[0].diagonal.shape if analysis.documents else (0, 0)
    if int(layer) >= shape[0] or int(head) >= shape[1]:
        raise ArgumentError(f"layer {layer} head {head} does not exist: there are {shape[0]} layers of {shape[1]} heads.")
    return int(layer), int(head)


def _write_archive(analysis: Analysis, target: Path, heads: list[tuple[int, int]] | None) -> None:
    from attviz import io

    _refuse(heads, target)
    io.save(analysis, target, precision="float32", overwrite=True)  # asked before anything was read


def _write_json(analysis: Analysis, target: Path, heads: list[tuple[int, int]] | None) -> None:
    from attviz import io

    io.write_attviz_json(io.attviz_documents(analysis, heads=heads), target)


def _write_csv(analysis: Analysis, target: Path, heads: list[tuple[int, int]] | None) -> None:
    from attviz import io

    _refuse(heads, target)
    io.to_csv(analysis, target)


def _write_parquet(analysis: Analysis, target: Path, heads: list[tuple[int, int]] | None) -> None:
    from attviz import io

    _refuse(heads, target)
    io.to_parquet(analysis, target)


def write_latex(analysis: Analysis, target: Path, heads: list[tuple[int, int]] | None = None) -> None:
    """A document with a paragraph per text, tinted by the mean of the chosen heads."""
    from attviz.io.latex import LATEX_END, LATEX_PREAMBLE, to_latex

    parts = []
    for document in analysis.documents:
        values = document.diagonal.astype("float64")
        chosen = values.reshape(values.shape[0] * values.shape[1], -1) if heads is None else values[tuple(zip(*heads, strict=True))]
        row = chosen.mean(axis=0)
        row[special_tokens(document.tokens, document.special)] = 0.0  # [CLS] and [SEP] would take the whole scale
        parts.append(to_latex(document.tokens, row))
    with replacing_text(target) as file:
        file.write(LATEX_PREAMBLE + "\n\n\\bigskip\n".join(parts) + LATEX_END)


def _refuse(heads: list[tuple[int, int]] | None, target: Path) -> None:
    if heads is not None:
        raise ArgumentError(f"--head is for .json and .tex, not for {target.suffix}.")


_WRITERS: dict[str, Callable[[Analysis, Path, list[tuple[int, int]] | None], None]] = {
    ".attviz": _write_archive,
    ".json": _write_json,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".tex": write_latex,
}
