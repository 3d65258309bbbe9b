"""Uses that nobody planned for: right, or a clear error, never wrong numbers."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from transformers import BertConfig, LlamaConfig, LlamaModel

import attviz
from attviz.errors import CaptureError
from tests.tiny import Block, Encoder, reference

LLAMA = LlamaConfig(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
BERT = BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)


@pytest.fixture
def model() -> Encoder:
    return Encoder().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, 32)


def test_implementation_changed_inside_the_context():
    model, ids = LlamaModel(LLAMA).eval(), torch.randint(0, 99, (2, 7))
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        for implementation in ("sdpa", "eager", "sdpa"):
            model.set_attn_implementation(implementation)
            model(ids)
    sources = [step[0].operator for step in cap.steps]
    assert sources[0] == sources[2] != sources[1]
    for step in cap.steps[1:]:
        for record, first in zip(step, cap.steps[0], strict=True):
            assert record.layer == first.layer
            torch.testing.assert_close(record.diagonal, first.diagonal, rtol=0, atol=1e-6)


def test_layer_added_inside_the_context(model, x):
    """It has no name in this capture: what it computes is not given to another layer."""
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        model(x)
        model.blocks.append(Block().eval())
        model(x)
    known = [record for record in cap.steps[1] if record.layer in cap.layers[:3]]
    truth = reference(model, x)
    assert [record.layer for record in cap.steps[0]] == [f"blocks.{place}.attention" for place in range(3)]
    for record in known:
        place = int(record.layer.split(".")[1])
        torch.testing.assert_close(record.diagonal.double(), truth[place], rtol=0, atol=1e-6)


def test_layer_taken_away_inside_the_context(model, x):
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x)
        del model.blocks[1]
        model(x)
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)
    assert cap.layers == ("blocks.0.attention", "blocks.2.attention")


def test_functional_call_with_other_parameters(model, x):
    other = Encoder().eval()
    with torch.no_grad(), attviz.capture(model) as cap:
        torch.func.functional_call(model, dict(other.named_parameters()), (x,))
    torch.testing.assert_close(cap.diagonal.double(), reference(other, x), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch, of vmap over its own kernel
def test_vmap_is_refused_with_the_cure(model, x):
    with pytest.raises(CaptureError, match=r"torch\.vmap.*flatten\(0, 1\)"), torch.no_grad(), attviz.capture(model):
        torch.func.vmap(model)(torch.stack([x, x + 1]))


def test_autocast_toggled_between_forwards(model, x):
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        model(x)
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
        model(x)
    plain, cast, again = (torch.stack([record.diagonal for record in step]) for step in cap.steps)
    assert torch.equal(plain, again)
    torch.testing.assert_close(cast, plain, rtol=0, atol=2e-2)  # bfloat16 keeps 8 bits of query and key: 4e-3 of a logit, over three layers


class Recursive(nn.Module):
    """Calls itself on the first half before it attends to the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Block().eval()

    def forward(self, x, depth=1):
        head = self(x[:, : x.shape[1] // 2], depth - 1) if depth else x[:, : x.shape[1] // 2]
        return self.attention(torch.cat([head, x[:, x.shape[1] // 2 :]], 1))


def test_forward_that_calls_the_model_again_is_one_step(x):
    model = Recursive()
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        model(x)
    assert len(cap.steps) == 1
    assert [record.diagonal.shape[-1] for record in cap.records] == [3, 7]
    assert len({record.layer for record in cap.records}) == 1


def test_jit_trace_under_an_open_capture(model, x):
    with torch.no_grad(), attviz.capture(model) as cap:
        plain = model(x)
        before = cap.diagonal.clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of jit.trace; an older torch says nothing
            traced = torch.jit.trace(model, (x,), check_trace=False)
        assert torch.equal(traced(x), plain)
        model(x)
    assert torch.equal(cap.diagonal, before)


def test_export_under_an_open_capture(model, x):
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        plain = model(x)
        exported = torch.export.export(model, (x,))
        assert len(cap.steps) == 1  # tracing with fake tensors is no forward
    torch.testing.assert_close(exported.module()(x), plain)
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)
