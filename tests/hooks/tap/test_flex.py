"""flex_attention: eager it passes as the softmax inside it; inside compiled regions it does not, and that is loud."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

import attviz
from attviz.errors import CaptureError
from attviz.hooks.tap import functions


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


@torch.no_grad()
def truth(model, x):
    query, key, _ = (part.double() for part in model.split(x))
    places = torch.arange(x.shape[1])
    scores = query @ key.mT * 8**-0.5 - 0.1 * (places[:, None] - places).abs()
    if model.causal:
        scores = scores.masked_fill(places[:, None] < places, -torch.inf)
    return scores.softmax(-1).diagonal(0, -2, -1)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("causal", [False, True])
def test_eager_flex_is_right(causal):
    model, x = Flex(causal).eval(), torch.randn(2, 16, 32)
    with torch.no_grad(), attviz.capture(model, layers="") as cap:
        model(x)
    torch.testing.assert_close(cap.diagonal[0].double(), truth(model, x), rtol=0, atol=1e-6)


compiled_flex = torch.compile(flex_attention, backend="eager")


class Held(Flex):
    """Calls a compiled flex_attention that is a global of this file, an attribute, or hidden in a closure."""

    def __init__(self, where: str, **options: bool) -> None:
        super().__init__(causal=True)
        self.where, self.options = where, options
        self.own = torch.compile(flex_attention, backend="eager")
        self.closure = None

    def forward(self, x):
        query, key, value = self.split(x)
        attend = {"global": compiled_flex, "attribute": self.own, "closure": self.closure}[self.where]
        mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, x.shape[1], x.shape[1], device="cpu", BLOCK_SIZE=4)
        return attend(query, key, value, score_mod=lambda score, b, h, q, k: score - 0.1 * (q - k).abs(), block_mask=mask, **self.options)


@pytest.fixture
def uncompiled():
    """The same function with the same arguments, without the minute that inductor takes to compile it."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning", "ignore:return_lse is deprecated")
@pytest.mark.parametrize("options", [{}, {"return_lse": True}, {"return_aux": AuxRequest(lse=True)}])
@pytest.mark.parametrize("where", ["global", "attribute"])
def test_a_compiled_function_that_the_code_holds_is_right(where, options):
    model, x = Held(where, **options).eval(), torch.randn(2, 16, 32)
    before = compiled_flex, model.own
    with torch.no_grad():
        plain = model(x)
        with attviz.capture(model, layers="") as cap:
            captured = model(x)
    assert (compiled_flex, model.own) == before
    assert not functions.installed()
    assert torch.equal(plain[0], captured[0])
    assert cap.records[0].operator == "flex_attention"
    torch.testing.assert_close(cap.diagonal[0].double(), truth(model, x), rtol=0, atol=1e-6)


def test_a_compiled_function_that_nobody_can_find_is_a_loud_miss():
    """Real inductor code would pass no operator; here its output is a constant, so that nothing has to be compiled."""
    model = Held("closure")
    model.closure = lambda query, *args, **kwargs: torch.zeros_like(query)
    with (
        pytest.raises(CaptureError, match="compiled flex_attention is found if it is a global or an attribute"),
        torch.no_grad(),
        attviz.capture(model, layers=""),
    ):
        model(torch.randn(2, 16, 32))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_blocks_that_a_mask_leaves_out_are_not_seen():
    """A mask made of blocks alone has a mask_mod that hides nothing."""

    class Blocks(Flex):
        def forward(self, x):
            query, key, value = self.split(x)
            count, indices = torch.ones(1, 1, 4, dtype=torch.int32), torch.tensor([0, 0, 2, 3], dtype=torch.int32).view(1, 1, 4, 1)
            columns = torch.nn.functional.pad(indices, (0, 3))
            return compiled_flex(query, key, value, block_mask=BlockMask.from_kv_blocks(count, columns, BLOCK_SIZE=4))

    model, x = Blocks(causal=False), torch.randn(1, 16, 32)
    with torch.no_grad(), attviz.capture(model, layers="") as cap:
        model(x)
        query, key, _ = (part.double() for part in model.split(x))
    scores = (query @ key.mT * 8**-0.5).unflatten(-1, (4, 4)).unflatten(-3, (4, 4))  # [1, heads, row block, row, column block, column]
    own = [scores[:, :, row, :, column].softmax(-1).diagonal(0, -2, -1) for row, column in enumerate((0, 0, 2, 3))]
    own[1] = torch.full_like(own[1], torch.nan)  # its queries see other blocks, and nobody sees it: as padding
    torch.testing.assert_close(cap.diagonal[0].double(), torch.cat(own, -1), rtol=0, atol=1e-6, equal_nan=True)


def test_flex_inside_a_compiled_model_is_a_loud_miss_with_the_cure():
    def fused(graph, inputs):
        """Like inductor's: one kernel, of which no dispatcher hears. (Inductor itself takes a minute to compile.)"""
        assert any("flex_attention" in str(node.target) for node in graph.graph.nodes)
        return lambda *_: (torch.zeros(2, 4, 16, 8),)

    model = torch.compile(Flex(causal=False).eval(), backend=fused)
    with pytest.raises(CaptureError, match=r"(?s)flex_attention is fused into .*set_attn_implementation\(\"sdpa\"\)"):
        with torch.no_grad(), attviz.capture(model):
            model(torch.randn(2, 16, 32))
