"""Measure what a capture costs on your model and machine: alternating forwards with and without it, and the median of the ratios.

The outputs of both are first compared bit by bit; exit code 1 if they differ.

  attviz bench                                       all-MiniLM-L6-v2, 8 x 128
  attviz bench --model ./my-model --batch-size 1 --length 512 --device cuda --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

from attviz.cli.model_options import model_arguments

HELP = "measure what capture costs on a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz bench``."""
    parser.add_argument("--model", default="all-MiniLM-L6-v2", metavar="MODEL", help="a hub id or a local folder (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="inputs per batch (default: %(default)s)")
    parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens per input (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=15, metavar="N", help="pairs of forwards (default: %(default)s)")
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, mps, ... (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 if the outputs differ."""
    import torch

    from attviz.analysis.models import load_model
    from attviz.errors import ArgumentError

    for name in ("batch_size", "length", "pairs"):
        if getattr(args, name) < 1:
            raise ArgumentError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}.")
    before = torch.get_num_threads()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code, allow_pickle=args.allow_pickle)
        model.to(args.device)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, len(tokenizer), (args.batch_size, args.length), generator=generator).to(args.device)
        result = measure(model, {"input_ids": ids}, args.pairs)
    finally:
        torch.set_num_threads(before)
    return _report({"model": args.model, "batch_size": args.batch_size, "length": args.length, "device": args.device} | result, args.json)


def measure(model: Any, inputs: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Median times and the median of the ratios of neighbouring forwards; the order within a pair alternates."""
    import torch

    import attviz

    def plain() -> float:
        started = _now(inputs)
        model(**inputs)
        return _now(inputs) - started

    def captured() -> float:
        started = _now(inputs)
        with attviz.capture(model) as cap:
            model(**inputs)
        assert cap.diagonal is not None  # read it: what is deferred to the read belongs to the price
        return _now(inputs) - started

    with torch.no_grad():
        identical = _identical(model, inputs)
        times = []
        for place in range(-2, pairs):  # two pairs to warm up
            pair = (plain(), captured()) if place % 2 else (captured(), plain())[::-1]
            if place >= 0:
                times.append(pair)
            print(f"\rpair {max(place + 1, 0)} of {pairs}", end="", file=sys.stderr)
    print(file=sys.stderr)
    ratios = sorted(with_capture / without for without, with_capture in times)
    return {
        "identical": identical,
        "pairs": pairs,
        "plain_ms": 1000 * statistics.median(without for without, _ in times),
        "capture_ms": 1000 * statistics.median(with_capture for _, with_capture in times),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _now(inputs: dict[str, Any]) -> float:
    import torch

    if inputs["input_ids"].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _identical(model: Any, inputs: dict[str, Any]) -> bool:
    import torch

    import attviz

    without = model(**inputs)
    with attviz.capture(model):
        with_capture = model(**inputs)
    tensors = [(one, other) for one, other in zip(without.values(), with_capture.values(), strict=True) if isinstance(one, torch.Tensor)]
    return bool(tensors) and all(torch.equal(one, other) for one, other in tensors)


def _report(result: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:<12} {value:.4g}" if isinstance(value, float) else f"{name:<12} {value}" for name, value in result.items()))
    if not result["identical"]:
        print("attviz bench: the outputs with and without capture differ. Please report this model.", file=sys.stderr)
        return 1
    return 0
