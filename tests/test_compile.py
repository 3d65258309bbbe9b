"""torch.compile before and inside the context, of the whole model and layer by layer: identical bits, right names or none."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import attviz
from attviz.errors import CaptureError
from tests.test_bit_identity import assert_identical, forward_and_backward
from tests.tiny import Encoder, hook_counts, reference

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
NAMES = tuple(f"blocks.{i}.attention" for i in range(3))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 10, 32)


def compile_whole(model: nn.Module) -> nn.Module:
    return torch.compile(model, fullgraph=True)


def compile_in_place(model: nn.Module) -> nn.Module:
    model.compile(fullgraph=True)
    return model


def compile_layers(model: nn.Module) -> nn.Module:
    for index, block in enumerate(model.blocks):
        model.blocks[index] = torch.compile(block, fullgraph=True)
    return model


def compile_layers_in_place(model: nn.Module) -> nn.Module:
    for block in model.blocks:
        block.compile(fullgraph=True)
    return model


WAYS = [compile_whole, compile_in_place, compile_layers, compile_layers_in_place]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("captured", ["what_runs", "original"])
def test_compiled_before_is_captured_without_recompiling(way, captured, x):
    original = Encoder()
    truth = reference(original, x)
    model = way(original)
    before = hook_counts(original)
    with torch.no_grad():
        plain = model(x)
        with torch._dynamo.config.patch(error_on_recompile=True):
            with attviz.capture(model if captured == "what_runs" else original, keep="all") as cap:
                once, twice = model(x), model(x)
            after = model(x)
    assert_identical([plain] * 3, [once, twice, after])
    assert len(cap.steps) == 2
    assert cap.layers == NAMES
    torch.testing.assert_close(cap.diagonal.double(), truth, rtol=0, atol=1e-6)
    assert hook_counts(original) == before


@pytest.mark.parametrize("way", WAYS)
def test_compiled_inside_is_captured(way, x):
    model = Encoder()
    truth = reference(model, x)
    with torch.no_grad():
        plain = way(copy.deepcopy(model))(x)
        with attviz.capture(model, keep="all") as cap:
            compiled = way(model)
            once, twice = compiled(x), compiled(x)
    assert_identical([plain, plain], [once, twice])
    assert [len(step) for step in cap.steps] == [3, 3]
    assert cap.layers == NAMES
    torch.testing.assert_close(cap.diagonal.double(), truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_forced_eager_under_an_open_capture(way, x):
    """The stance sends compiled code back to Python: the same names and numbers, and compiled again afterwards."""
    original = Encoder()
    truth = reference(original, x)
    model = way(original)
    with torch.no_grad():
        model(x)
        with attviz.capture(model, keep="all") as cap:
            with torch.compiler.set_stance("force_eager"):
                model(x)
            with torch._dynamo.config.patch(error_on_recompile=True):
                model(x)
    assert cap.layers == NAMES
    for step in cap.steps:
        assert tuple(record.layer for record in step) == NAMES
        torch.testing.assert_close(torch.stack([record.diagonal for record in step]).double(), truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_stance_against_recompiling_is_kept(way, x):
    original = Encoder()
    truth = reference(original, x)
    model = way(original)
    with torch.no_grad():
        plain = model(x)
        with torch.compiler.set_stance("fail_on_recompile"), attviz.capture(model) as cap:
            captured = model(x)
    assert_identical([plain], [captured])
    assert cap.layers == NAMES
    torch.testing.assert_close(cap.diagonal.double(), truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", [compile_whole, compile_layers])
def test_compiled_training_step_is_identical(way, x):
    model = way(Encoder())
    plain = forward_and_backward(model, x)
    with torch._dynamo.config.patch(error_on_recompile=True), attviz.capture(model, keep="all") as cap:
        captured = forward_and_backward(model, x)
    assert_identical(plain, captured)
    assert [len(step) for step in cap.steps] == [3]
    assert cap.layers == NAMES


def test_names_are_absent_where_nothing_tells_them(x):
    model = Encoder()
    for block in model.blocks:
        block.attention.__class__ = type("Blend", (type(block.attention),), {})  # no module looks like attention
    truth = reference(model, x)
    compiled = compile_whole(model)
    with torch.no_grad(), attviz.capture(compiled) as cap:
        compiled(x)
    assert [record.layer for record in cap.records] == [None] * 3
    assert cap.layers == ("call:0", "call:1", "call:2")
    torch.testing.assert_close(cap.diagonal.double(), truth, rtol=0, atol=1e-6)


def test_softmax_that_the_compiler_fuses_is_a_loud_miss(x):
    model = compile_whole(Encoder(1, by_hand=True))
    with torch.no_grad(), pytest.raises(CaptureError, match=r"(?s)no self-attention was found.*fused.*Cure"), attviz.capture(model):
        model(x)


def test_attention_that_the_compiler_removes_is_a_loud_miss(x):
    class Wasteful(Encoder):
        def forward(self, x):
            self.blocks[1](x)  # its output is unused
            return self.blocks[2](self.blocks[0](x))

    model = compile_whole(Wasteful())
    with torch.no_grad(), pytest.raises(CaptureError, match="2 attention calls passed for 3 attention modules"):
        with attviz.capture(model) as cap:
            model(x)
    assert [record.layer for record in cap.records] == [None, None]


def test_function_around_the_model_is_loud(x):
    model = Encoder(1)
    step = torch.compile(lambda x: model(x) + 1)
    with torch.no_grad():
        step(x)
        with pytest.raises(CaptureError, match="If a function around it is compiled, compile the model instead. 1 attention operators ran"):
            with attviz.capture(model):
                step(x)


def test_metrics_are_fed_by_a_wholly_compiled_model(x):
    """Its layers have no names before the forward has ended."""
    original = Encoder()
    truth = reference(original, x)
    model = torch.compile(original, backend="aot_eager", fullgraph=True)
    seen = attviz.metrics.HeadStatistics()
    with torch.no_grad():
        model(x)
        with attviz.capture(model, metrics=seen, keep="none"):
            model(x)
            model(x)
    table = seen.compute()
    assert table.layers == NAMES
    torch.testing.assert_close(table.count, torch.full((3, 4), 2.0 * 2 * 10, dtype=table.count.dtype))
    torch.testing.assert_close(table.mean.double(), truth.mean((1, 3)), rtol=0, atol=1e-6)
