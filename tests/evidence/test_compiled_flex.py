"""flex_attention in compiled models: read where the graph runs node by node, loud where the compiler makes a kernel of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

import attviz
from attviz.errors import CaptureError
from tests.evidence.judge import B, D, E, T, assert_right, diagonal, heads, weights
from tests.hooks.tap.test_transformers_flex import batch, eager, model_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
LENGTHS = torch.tensor([T, 5, 3])
REAL = torch.arange(T)[None] < LENGTHS[:, None]
KEYS = 2  # heads of keys, two of queries for each


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def nearer(score: Tensor, text: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return score - 0.3 * (q - k)


def causal(text: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return (q >= k) & (k < LENGTHS[text])


class FlexAttention(nn.Module):
    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.alone = nn.Linear(E, E), nn.Linear(E, KEYS * D), nn.Linear(E, KEYS * D), alone

    def forward(self, x: Tensor, mask: BlockMask | None) -> Tensor:
        query, key, value = heads(self.q(x)), heads(self.k(x), KEYS), heads(self.v(x), KEYS)
        if self.alone:
            torch._dynamo.graph_break()
        output = flex_attention(query, key, value, score_mod=nearer, block_mask=mask, enable_gqa=True)
        if self.alone:
            torch._dynamo.graph_break()
        return output.transpose(1, 2).flatten(2)

    def truth(self, x: Tensor) -> Tensor:
        """The diagonal in float64."""
        q, k = torch.arange(T)[:, None], torch.arange(T)
        hidden = ~((q >= k) & (k < LENGTHS[:, None, None, None]))
        bias = (-0.3 * (q - k)).double().masked_fill(hidden, -torch.inf)
        key = heads(self.k(x), KEYS).repeat_interleave(E // D // KEYS, 1)
        return torch.where(REAL[:, None], diagonal(weights(heads(self.q(x)), key, bias)), torch.nan)


class CappedAttention(nn.Module):
    """Attention with capped scores, which inductor makes a kernel of."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(E, E), nn.Linear(E, E)

    def forward(self, x: Tensor, mask: BlockMask | None) -> Tensor:
        key = heads(self.k(x))
        return ((heads(self.q(x)) @ key.mT * D**-0.5).tanh().softmax(-1) @ key).transpose(1, 2).flatten(2)


class KernelAttention(nn.MultiheadAttention):
    def __init__(self) -> None:
        super().__init__(E, E // D, batch_first=True)

    def forward(self, x: Tensor, mask: BlockMask | None) -> Tensor:
        return super().forward(x, x, x, need_weights=False)[0]


class Model(nn.Module):
    def __init__(self, *layers: nn.Module, broken: bool = False) -> None:
        super().__init__()
        self.layers, self.broken = nn.ModuleList(layers), broken

    def forward(self, x: Tensor, attention_mask: Tensor, mask: BlockMask | None = None) -> Tensor:
        for layer in self.layers:
            if self.broken:
                torch._dynamo.graph_break()
            x = x + layer(x, mask)
        return x


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("broken", ["nowhere", "between layers", "around flex_attention"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_flex_attention_is_right_where_a_graph_runs_node_by_node(backend, broken, before):
    torch.manual_seed(0)
    model = Model(*(FlexAttention(broken == "around flex_attention") for _ in range(2)), broken=broken == "between layers").train()
    x, mask = torch.randn(B, T, E), create_block_mask(causal, B, None, T, T, device="cpu")
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        if before:
            with attviz.capture(model):
                model(x, REAL.long(), mask)
        with attviz.capture(compiled) as cap:
            compiled(x, REAL.long(), mask)
        first, second = model.layers
        assert cap.layers == ("layers.0", "layers.1")
        assert_right(cap, first.truth(x), second.truth(x + first(x, mask)))


@pytest.mark.parametrize("broken", [False, True])
def test_the_flex_attention_of_transformers_is_right_where_a_graph_runs_node_by_node(broken):
    torch.manual_seed(0)
    model, inputs = model_of("llama", use_cache=False), batch()
    expected = eager(model, inputs)
    if broken:
        for layer in model.layers:
            layer.self_attn.register_forward_pre_hook(lambda *_: torch._dynamo.graph_break())
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad(), attviz.capture(compiled) as cap:
        compiled(**inputs)
    assert cap.layers == ("layers.0.self_attn", "layers.1.self_attn")
    assert_right(cap, *expected, atol=1e-6)


@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_a_compiled_layer_that_became_a_kernel_is_loud_beside_others(how):
    """Nothing of the first layer passes the dispatcher; the other layer is seen, compiled or not."""
    torch.manual_seed(0)
    model, x = Model(CappedAttention(), KernelAttention()).train(), torch.randn(B, T, E)
    if how == "in place":
        for layer in model.layers:
            layer.compile()
    else:
        model.layers[0] = torch.compile(model.layers[0])
    held = [(dict(vars(layer)), dict(layer._forward_pre_hooks)) for layer in model.layers]
    real = torch.ones(B, T, dtype=torch.long)
    with torch.no_grad(), pytest.raises(CaptureError, match=r"'layers\.0' .*\n.*fused.*\n.*force_eager") as loud:
        with attviz.capture(model) as cap:
            model(x, real)
    assert "'layers.1'" not in str(loud.value)
    assert cap.layers == ("layers.1",)
    for layer, (attributes, hooks) in zip(model.layers, held, strict=True):
        assert vars(layer).get("_compiled_call_impl") is attributes.get("_compiled_call_impl")
        assert layer._forward_pre_hooks == hooks
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), attviz.capture(model) as cap:
        model(x, real)
    assert cap.layers == ("layers.0", "layers.1")


def test_flex_attention_alone_in_a_fragment_of_inductor_is_loud():
    torch.manual_seed(0)
    model, x = Model(FlexAttention(alone=True), KernelAttention()).train(), torch.randn(B, T, E)
    mask = create_block_mask(causal, B, None, T, T, device="cpu")
    model.layers[0].compile()
    with torch.no_grad(), pytest.raises(CaptureError, match=r"'layers\.0' .*\n.*flex_attention.*fused"), attviz.capture(model):
        model(x, REAL.long(), mask)


class Chosen(Model):
    def forward(self, x: Tensor, attention_mask: Tensor, mask: BlockMask | None = None) -> Tensor:
        return self.layers[1](x, mask)


def test_a_compiled_layer_that_does_not_run_is_not_missed():
    torch.manual_seed(0)
    model, x = Chosen(CappedAttention(), KernelAttention()).train(), torch.randn(B, T, E)
    model.layers[0].compile()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x, torch.ones(B, T, dtype=torch.long))
    assert cap.layers == ("layers.1",)
    assert not cap.missed


def test_captures_that_end_in_another_order_leave_a_compiled_layer_as_it_was():
    torch.manual_seed(0)
    model, x = Model(CappedAttention(), KernelAttention()).train(), torch.randn(B, T, E)
    model.layers[0].compile(backend="eager")
    held = model.layers[0]._compiled_call_impl
    first, second = attviz.capture(model), attviz.capture(model)
    first.__enter__()
    second.__enter__()
    with torch.no_grad():
        model(x, torch.ones(B, T, dtype=torch.long))
    first.__exit__(None, None, None)
    assert model.layers[0]._compiled_call_impl is not held
    second.__exit__(None, None, None)
    assert model.layers[0]._compiled_call_impl is held
    assert first.layers == second.layers == ("layers.0", "layers.1")
