"""How far the diagonals of real weights on real text are from float64.

    python -m benchmarks.accuracy

all-MiniLM-L6-v2 (the ``demo`` extra) reads the demo's texts. Its eager forward in float64 is the truth; its own eager float32 weights
show how much of the difference is float32 itself.
"""

from __future__ import annotations

import copy
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
    print(f"values compared with float64:      {found.numel()}")
    print(f"largest error of the capture:      {float((found - truth).abs().max()):.1e}")
    print(f"largest error of eager float32:    {float((eager - truth).abs().max()):.1e}")
    print(f"largest log-sum-exp, absolute:     {largest:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
