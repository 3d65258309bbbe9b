"""Verify every number: of a model against an independent reference, layer by layer; of an archive against its checksums.

For a model, a few short texts are run and each attention is recomputed in float64 from its operator's inputs; then one token
of each layer's input is perturbed, to see that row i and key i are token i. Exit code 1 if a layer differs or cannot be decided.

  attviz check all-MiniLM-L6-v2                      a hub id, a local folder, or the bundled model
  attviz check ./my-model --text "some text" --text "another, longer text"
  attviz check ./my-model --dtype bfloat16 --attention eager
  attviz check run.attviz                            is the archive intact?
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attviz.checking import Check

HELP = "compare a model with an independent reference, or an archive with its checksums"
_TEXTS = ("The old bridge over the river was closed.", "A storm came late in the day, so the town by the river bank was quiet that night.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz check``."""
    parser.add_argument("target", metavar="MODEL|FILE", help="a hub id, a model's folder, or an archive (.attviz)")
    parser.add_argument("--text", action="append", metavar="TEXT", help="run this text; may be repeated (default: two built-in texts)")
    parser.add_argument("--attention", metavar="NAME", help="attention implementation: sdpa, eager, ... (default: the model's own)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"], help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, mps, ... (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Check a model or an archive; 1 if anything is wrong."""
    return _check_archive(Path(args.target), args.json) if Path(args.target).is_file() else _check_model(args)


def _check_archive(path: Path, as_json: bool) -> int:
    from attviz import io
    from attviz.io.storage import STORAGES

    report = io.verify(path)
    if as_json:
        print(json.dumps({**asdict(report), "path": str(report.path), "ok": bool(report)}))
    else:
        print(
            f"{path}: {report.num_documents} documents, {report.num_tokens} tokens, {report.num_layers} layers of {report.num_heads} heads"
        )
        print(f"  stored as {report.precision}: error {STORAGES[report.precision].error}")
        for fault in report.faults:
            print(f"  {fault}")
        print(
            "NOT OK"
            if report.faults
            else "ok"
            if report.has_checksums
            else "ok, but without checksums, so changed numbers would not be noticed"
        )
    return 1 if report.faults else 0


def _check_model(args: argparse.Namespace) -> int:
    import torch

    import attviz
    from attviz.analysis.models import load_model

    model, tokenizer = load_model(args.target, attention=args.attention)
    model.to(device=args.device, dtype=getattr(torch, args.dtype))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    inputs = dict(tokenizer(list(args.text or _TEXTS), return_tensors="pt", padding=True, truncation=True))
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = inputs["input_ids"]
    check = attviz.check(model, **{name: value.to(args.device) for name, value in inputs.items()})
    print(_json(check) if args.json else check)
    if not check.ok:
        print("attviz check: not every layer is verified. Please report a layer that differs.", file=sys.stderr)
    return 0 if check.ok else 1


def _json(check: Check) -> str:
    rows: list[dict[str, Any]] = [{**asdict(row), "error": None if row.error != row.error else row.error} for row in check.layers]
    outputs = {"ok": check.ok, "model": check.model, "outputs_identical": check.outputs_identical}
    return json.dumps({**outputs, "layers": rows, "warnings": check.warnings})
