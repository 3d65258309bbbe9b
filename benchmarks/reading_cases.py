"""What the price list of readings runs: models, the readings, and what each should say, from the eager weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import attviz
from attviz import readings as r

Truth = Callable[[Tensor, Tensor], Tensor]


def _odd(weights: Tensor, ids: Tensor) -> Tensor:
    odd = (ids % 2 == 1)[None, :, None, None]
    return torch.stack([(weights * ~odd).sum(-1), (weights * odd).sum(-1)], -1)


def _distance(weights: Tensor, ids: Tensor) -> Tensor:
    places = torch.arange(weights.shape[-1])
    return (weights * (places[:, None] - places).abs()).sum(-1)


def _induction(weights: Tensor, ids: Tensor) -> Tensor:
    """One token at a time."""
    found = torch.full(weights.shape[:-1], torch.nan)
    for text, row in enumerate(ids.tolist()):
        last: dict[int, int] = {}
        for place, token in enumerate(row):
            if token in last:
                found[:, text, :, place] = weights[:, text, :, place, last[token] + 1]
            last[token] = place
    return found


READINGS: dict[str, tuple[Callable[[], r.Reading], Truth]] = {
    "own": (r.Own, lambda a, ids: a.diagonal(0, -2, -1)),
    "offset(-1)": (lambda: r.Offset(-1), lambda a, ids: nn.functional.pad(a.diagonal(-1, -2, -1), (1, 0), value=torch.nan)),
    "induction": (r.Induction, _induction),
    "keys(first=1)": (lambda: r.Keys(first=1), lambda a, ids: a[..., 0]),
    "rows(-1)": (lambda: r.Rows(-1), lambda a, ids: a[..., -1:, :]),
    "row_entropy": (r.RowEntropy, lambda a, ids: torch.special.entr(a).sum(-1)),
    "received": (r.Received, lambda a, ids: a.sum(-2)),
    "segments": (lambda: r.Segments(lambda tokens: tokens.key_ids % 2, 2), _odd),
    "distance": (r.Distance, _distance),
    "top_keys(4).weights": (lambda: r.TopKeys(4), lambda a, ids: a.topk(4).values),
}


@dataclass(frozen=True)
class ReadingCase:
    """A model at one input size."""

    name: str
    family: str
    length: int
    hidden: int
    num_layers: int
    num_heads: int
    pairs: int

    def model(self, implementation: str = "sdpa") -> nn.Module:
        """With random weights, the same each time."""
        import transformers

        shape = {
            "hidden_size": self.hidden, "num_hidden_layers": self.num_layers, "num_attention_heads": self.num_heads,
            "intermediate_size": 4 * self.hidden, "max_position_embeddings": self.length, "vocab_size": 1000,
            "attn_implementation": implementation,
        }  # fmt: skip
        torch.manual_seed(0)
        if self.family == "bert":
            return transformers.BertModel(transformers.BertConfig(**shape), add_pooling_layer=False).eval()
        return transformers.LlamaModel(transformers.LlamaConfig(use_cache=False, **shape)).eval()

    @property
    def ids(self) -> Tensor:
        """One text."""
        return torch.randint(0, 1000, (1, self.length), generator=torch.Generator().manual_seed(1))

    def runner(self, reading: str) -> Callable[[], Tensor | None]:
        """A forward with one reading, with the diagonal alone (``"diagonal"``), or plain (``"plain"``)."""
        model, ids = _model(self, "sdpa"), self.ids

        def plain() -> None:
            model(ids)

        def captured() -> Tensor:
            with attviz.capture(model, read=None if reading == "diagonal" else READINGS[reading][0]()) as cap:
                model(ids)
            return cap.diagonal if reading == "diagonal" else cap.reading(reading)

        return plain if reading == "plain" else captured

    def compare(self, reading: str, found: Any) -> None:
        """Raise unless an answer is that of the eager weights."""
        truth = READINGS["own" if reading == "diagonal" else reading][1](_weights(self), self.ids)
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4, equal_nan=True)

    def attention_alone(self) -> Callable[[], object]:
        """The fused attention of all layers at this shape: what one more pass should cost."""
        shape = (1, self.num_heads, self.length, self.hidden // self.num_heads)
        query, key, value = (torch.randn(shape) for _ in range(3))
        attend = nn.functional.scaled_dot_product_attention
        return lambda: [attend(query, key, value, is_causal=self.family == "llama") for _ in range(self.num_layers)]


@cache
def _model(case: ReadingCase, implementation: str) -> nn.Module:
    return case.model(implementation)


@cache
def _weights(case: ReadingCase) -> Tensor:
    """``[num_layers, 1, num_heads, length, length]``."""
    return torch.stack(case.model("eager")(case.ids, output_attentions=True).attentions)


CASES = (
    ReadingCase("llama-like-1x512", "llama", 512, 768, 4, 12, pairs=21),
    ReadingCase("bert-base-4-layers-1x1024", "bert", 1024, 768, 4, 12, pairs=9),
)
LONG = ReadingCase("llama-like-1x16384", "llama", 16384, 128, 2, 2, pairs=1)
