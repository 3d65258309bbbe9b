"""flex_attention: eager it passes as the softmax inside it; inside compiled regions it does not, and that is loud."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attviz
from attviz.errors import CaptureError


class Flex(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.qkv, self.causal = nn.Linear(32, 96), causal

    def split(self, x):
        return self.qkv(x).unflatten(-1, (3, 4, 8)).transpose(1, 3).unbind(2)

    def forward(self, x):
        query, key, value = self.split(x)
        mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, x.shape[1], x.shape[1], device="cpu") if self.causal else None
        return flex_attention(query, key, value, score_mod=lambda score, b, h, q, k: score - 0.1 * (q - k).abs(), block_mask=mask)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("causal", [False, True])
def test_eager_flex_is_right(causal):
    model, x = Flex(causal).eval(), torch.randn(2, 16, 32)
    with torch.no_grad(), attviz.capture(model, layers="") as cap:
        model(x)
    with torch.no_grad():
        query, key, _ = (part.double() for part in model.split(x))
    places = torch.arange(16)
    scores = query @ key.mT * 8**-0.5 - 0.1 * (places[:, None] - places).abs()
    if causal:
        scores = scores.masked_fill(places[:, None] < places, -torch.inf)
    torch.testing.assert_close(cap.diagonal[0].double(), scores.softmax(-1).diagonal(0, -2, -1), rtol=0, atol=1e-6)


class Compiled(Flex):
    """Compiled as a whole, the kernel is part of the graph."""


def test_flex_inside_a_compiled_model_is_a_loud_miss_with_the_cure():
    def fused(graph, inputs):
        """Like inductor's: one kernel, of which no dispatcher hears. (Inductor itself takes a minute to compile.)"""
        assert any("flex_attention" in str(node.target) for node in graph.graph.nodes)
        return lambda *_: (torch.zeros(2, 4, 16, 8),)

    model = torch.compile(Compiled(causal=False).eval(), backend=fused)
    with pytest.raises(CaptureError, match=r"(?s)flex_attention is fused into .*set_attn_implementation\(\"sdpa\"\)"):
        with torch.no_grad(), attviz.capture(model):
            model(torch.randn(2, 16, 32))
