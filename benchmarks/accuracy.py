"""How far the diagonals of real weights on real text are from float64.

    python -m benchmarks.accuracy > benchmarks/results/accuracy.csv

all-MiniLM-L6-v2 (the ``demo`` extra) reads the demo's texts. Its eager forward in float64 is the truth; its own eager float32 weights
show how much of the difference is float32 itself.
"""

from __future__ import annotations

import copy
import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import attviz
from attviz.analysis.models import load_model
from attviz.calls import AttentionCall
from attviz.cli.demo import TEXTS
from attviz.readings import Reading, Tokens
from benchmarks.environment import environment


@dataclass(frozen=True, kw_only=True, eq=False)
class LargestLogsumexp(Reading):
    """The largest log-sum-exp of a call."""

    per = None

    def read(self, call: AttentionCall, tokens: Tokens) -> Tensor:
        """One number."""
        logsumexp: Tensor | None = getattr(call, "logsumexp", None)
        return torch.zeros(()) if logsumexp is None else logsumexp.abs().max().clone()


def compare() -> tuple[Tensor, Tensor, Tensor, float]:
    """Captured, eager float32 and true diagonals of the real tokens of all layers and heads, and the largest log-sum-exp."""
    model, tokenizer = load_model("all-MiniLM-L6-v2")
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad(), attviz.capture(model, read=LargestLogsumexp()) as cap:
        model(**batch)
    real = batch["attention_mask"].bool()[None, :, None].expand_as(cap.diagonal)
    eager = _attentions(copy.deepcopy(model), batch)
    truth = _attentions(copy.deepcopy(model).double(), batch)
    return cap.diagonal[real].double(), eager[real].double(), truth[real], float(cap.reading("largest_logsumexp").max())


def _attentions(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(**batch, output_attentions=True).attentions
    return torch.stack([weights.diagonal(0, -2, -1) for weights in attentions])


def main() -> int:
    found, eager, truth, largest = compare()
    row = {
        "model": "all-MiniLM-L6-v2",
        "values": found.numel(),
        "largest_error": f"{float((found - truth).abs().max()):.2e}",
        "largest_error_eager_float32": f"{float((eager - truth).abs().max()):.2e}",
        "largest_logsumexp": f"{largest:.1f}",
    } | environment()
    writer = csv.DictWriter(sys.stdout, list(row))
    writer.writeheader()
    writer.writerow(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
