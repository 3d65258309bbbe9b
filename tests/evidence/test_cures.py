"""A cure that a message names gives right numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attviz
from attviz.calls.layouts import WeightLayout, register_layout, unregister_layout
from attviz.errors import CaptureError
from tests.evidence.judge import B, D, E, H, T, assert_right, diagonal, heads, is_loud, seen, weights


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)

    def truth(self, x):
        return diagonal(weights(heads(self.q(x)), heads(self.k(x))))


class Unfollowed(Mixer):
    """Its keys are cut out by a mask that lets all of them pass: nothing shows that they stand where they stood."""

    def forward(self, x, context=None):
        every = torch.ones(T, dtype=torch.bool)
        k, v = heads(self.k(x if context is None else context))[:, :, every], heads(self.v(x))[:, :, every]
        return F.scaled_dot_product_attention(heads(self.q(x)), k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("name", ["mixer", "cross_attn"])
def test_naming_a_module_of_which_two_readings_fit(name):
    model, x = nn.ModuleDict({name: Unfollowed()}).eval(), torch.randn(B, T, E)
    model.forward = lambda x: model[name](x)
    assert "name the module in layers=" in is_loud(model, x)
    with torch.no_grad(), attviz.capture(model, layers=name) as cap:
        model(x)
    assert_right(cap, model[name].truth(x))


class Mixed(Mixer):
    """Heads mixed behind the softmax: which matrix its diagonal is asked of, only its author can say."""

    def forward(self, x):
        mixed = (heads(self.q(x)) @ heads(self.k(x)).mT * D**-0.5).softmax(-1)
        return (torch.einsum("bhij,hg->bgij", mixed, torch.ones(H, H)) @ heads(self.v(x))).transpose(1, 2).flatten(2)


class Turned(Mixer):
    """Keys from the last to the first."""

    def forward(self, x):
        scores = heads(self.q(x)) @ heads(self.k(x)).flip(2).mT * D**-0.5
        return (scores.softmax(-1) @ heads(self.v(x)).flip(2)).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("kind", "own"), [(Mixed, lambda w: w.diagonal(0, -2, -1)), (Turned, lambda w: w.flip(-1).diagonal(0, -2, -1))])
def test_a_registered_layout_says_where_the_own_weight_stands(kind, own):
    model, x = nn.Sequential(kind()).eval(), torch.randn(B, T, E)
    assert "attviz.register_layout" in is_loud(model, x)
    entry = register_layout(WeightLayout(lambda module: type(module) is kind, lambda module, found: own(found)))
    try:
        assert_right(seen(model, x), model[0].truth(x))
    finally:
        unregister_layout(entry)


class FoldedAttention(Mixer):
    """Batch and heads in one axis."""

    def forward(self, x):
        q, k, v = (heads(f(x)).flatten(0, 1) for f in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v).unflatten(0, (-1, H)).transpose(1, 2).flatten(2)


def test_batch_and_heads_in_one_axis_of_compiled_code():
    model, x = FoldedAttention().eval(), torch.randn(B, T, E)
    compiled = torch.compile(model, backend="aot_eager")
    with pytest.raises(CaptureError, match="before it is compiled"), torch.no_grad(), attviz.capture(compiled):
        compiled(x)
    assert_right(seen(model, x), model.truth(x))
    with torch.no_grad(), attviz.capture(compiled) as cap:
        compiled(x)
    assert_right(cap, model.truth(x))
