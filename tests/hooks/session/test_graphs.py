"""CUDA graphs rehearsed without a GPU: refused by name on entering, and left alone while one is recorded."""

import sys
import types

import pytest
import torch

import attviz
from attviz.errors import CaptureError
from attviz.hooks.session import graphs
from attviz.hooks.tap import dispatcher
from tests.tiny import Encoder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, which inductor loads


@pytest.fixture
def on_cuda(monkeypatch):
    """Models are taken for a GPU's."""
    monkeypatch.setattr(graphs, "_on_cuda", lambda model: True)


def in_place(model, **options):
    model.compile(**options)
    return model


def a_block(model, **options):
    model.blocks[1].compile(**options)
    return model


HOW = {"apart": torch.compile, "in place": in_place, "a block": a_block}


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize(
    "options", [{"mode": "reduce-overhead"}, {"mode": "max-autotune"}, {"options": {"triton.cudagraphs": True}}], ids=str
)
@pytest.mark.parametrize("how", HOW)
def test_a_model_that_replays_graphs_is_refused_before_its_forward(how, options):
    model = HOW[how](Encoder(), **options)
    with pytest.raises(
        CaptureError, match=r"'blocks\.1' is compiled to replay" if how == "a block" else "is compiled to replay CUDA graphs"
    ):
        with attviz.capture(model):
            pytest.fail("the forward of a user would have run")
    assert not dispatcher.installed()


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("options", [{"mode": "default"}, {"mode": "max-autotune-no-cudagraphs"}, {"backend": "eager"}], ids=str)
@pytest.mark.parametrize("how", HOW)
def test_what_the_message_says_instead_is_not_refused(how, options):
    graphs.refuse_replays(Encoder(), attviz.capture(HOW[how](Encoder(), **options))._session.layout)


@pytest.mark.usefixtures("on_cuda")
def test_without_the_compiler_the_same_model_is_captured():
    model, x = torch.compile(Encoder().eval(), mode="reduce-overhead"), torch.randn(2, 7, 32)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), attviz.capture(model) as cap:
        model(x)
    assert len(cap.records) == len(model._orig_mod.blocks)


def test_on_the_cpu_there_are_no_graphs():
    model = torch.compile(Encoder(), mode="reduce-overhead")
    graphs.refuse_replays(model, attviz.capture(model)._session.layout)


def test_attention_that_is_recorded_into_a_graph_is_left_alone_and_reported(monkeypatch):
    model, x = Encoder().eval(), torch.randn(2, 7, 32)
    with torch.no_grad():
        plain = model(x)
    monkeypatch.setattr(graphs, "being_recorded", lambda args: True)
    with torch.no_grad(), pytest.raises(CaptureError, match="while a CUDA graph was recorded"), attviz.capture(model) as cap:
        captured = model(x)
    assert torch.equal(captured, plain)
    assert not cap._session._recorder.steps or not cap.records


def test_a_model_compiled_to_replay_inside_the_context_is_left_alone_and_reported(monkeypatch):
    """Its first call is a warm-up in the memory of the graph to come: inductor would reject what we kept, inside the user's forward."""
    trees = types.ModuleType(graphs._TREES)
    exec("def run(function, *args, **kwargs):\n    return function(*args, **kwargs)", vars(trees))  # as inductor calls compiled code
    attend = torch.nn.functional.scaled_dot_product_attention
    model, x = Encoder().eval(), torch.randn(2, 7, 32)
    monkeypatch.setattr(graphs, "_is_cuda", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setitem(sys.modules, graphs._TREES, trees)
    with torch.no_grad():
        with attviz.capture(model) as cap:  # another model's graphs do not concern this one
            plain = model(x)
        assert len(cap.records) == len(model.blocks)
        with pytest.raises(CaptureError, match=r"while a CUDA graph was recorded(.|\n)*max-autotune-no-cudagraphs"), attviz.capture(model):
            monkeypatch.setattr(
                torch.nn.functional, "scaled_dot_product_attention", lambda *args, **kwargs: trees.run(attend, *args, **kwargs)
            )
            captured = model(x)
    assert torch.equal(captured, plain)


def test_nothing_is_asked_of_a_tensor_that_is_not_on_a_gpu():
    assert not graphs.being_recorded((torch.zeros(1),))
    assert not graphs.being_recorded(())
