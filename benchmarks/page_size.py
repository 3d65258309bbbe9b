"""How large the page is beside BertViz's views of the same text: one CSV row per tool and length.

    pip install bertviz                # optional: without it only our own rows are written
    python -m benchmarks.page_size 64 128 256 512 > benchmarks/results/page_size.csv

The model is of BERT-base's size (12 layers, 12 heads) with random weights; BertViz is asked for its HTML by
`html_action="return"`. It shows all pairs of tokens. So does "attviz pairs", from query and key, whose size grows with the text;
"attviz" shows what each token gives itself, and "attviz text" the tinted text alone. Seconds are those of making the HTML, after
the forward. A process for each row: 512 tokens take BertViz several GB of memory.

Targets: pairs of 64 tokens in 4 MB, of 512 in 30 MB; what misses is named on stderr.
"""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import importlib.util
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import attviz
from benchmarks.environment import environment

TOOLS = ("attviz", "attviz text", "attviz pairs", "bertviz head_view", "bertviz model_view")
OURS = 3
LIMITS = {("attviz pairs", 64): 4_000_000, ("attviz pairs", 512): 30_000_000}


def measure(tool: str, tokens: int) -> dict[str, Any]:
    """Run one forward and write one HTML in memory."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig()).eval()
    names = [f"w{i}" for i in range(tokens)]
    ids = torch.randint(1000, 30000, (1, tokens))
    make = (_ours if tool.startswith("attviz") else _bertviz)(tool, model, ids, names)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    size = len(make().encode())
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"tool": tool, "tokens": tokens, "html_bytes": size, "seconds": round(seconds, 2), "peak_growth_bytes": grown}


def _ours(tool: str, model: Any, ids: torch.Tensor, names: list[str]) -> Callable[[], str]:
    read = [attviz.readings.QueryKey(dtype=torch.float16)] if tool == "attviz pairs" else []
    with torch.no_grad(), attviz.capture(model, read=read) as cap:
        model(ids)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions
    expected = torch.stack([one.diagonal(dim1=-2, dim2=-1) for one in weights])
    torch.testing.assert_close(cap.diagonal, expected, rtol=1e-4, atol=1e-6)  # a small file of wrong numbers is no result
    return lambda: attviz.view(cap, tokens=[names], show="text" if tool == "attviz text" else "page").html


def _bertviz(tool: str, model: Any, ids: torch.Tensor, names: list[str]) -> Callable[[], str]:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions
    show = getattr(importlib.import_module("bertviz"), tool.split()[1])
    return lambda: str(show(weights, names, html_action="return").data)


def main() -> None:
    """Write the CSV to stdout."""
    lengths = [int(one) for one in sys.argv[1:]] or [64, 128]
    have = importlib.util.find_spec("bertviz") is not None
    where = environment() | {"bertviz": importlib.metadata.version("bertviz") if have else "-"}
    writer = csv.DictWriter(sys.stdout, ["tool", "tokens", "html_bytes", "seconds", "peak_growth_bytes", *where])
    writer.writeheader()
    missed = []
    for tokens in lengths:
        for tool in TOOLS if have else TOOLS[:OURS]:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(measure, (tool, tokens))
            writer.writerow(row | where)
            sys.stdout.flush()
            limit = LIMITS.get((tool, tokens))
            if limit is not None and row["html_bytes"] > limit:
                missed.append(f"missed: {tool}, {tokens} tokens: {row['html_bytes']} bytes of {limit}")
    print(*(missed or ["every target kept"]), sep="\n", file=sys.stderr)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
