"""A cure that a message names gives right numbers."""

from __future__ import annotations

import copy

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


class Strided(Mixer):
    """Windows of 8 keys around blocks of 4 queries, cut out by their strides: nothing shows where they come from."""

    def parts(self, x):
        q, k, v = (heads(f(x)) for f in (self.q, self.k, self.v))
        k, v = (F.pad(part, (0, 0, 2, 2)).contiguous() for part in (k, v))
        steps = (k.stride(0), k.stride(1), 4 * k.stride(2), k.stride(2), k.stride(3))
        return q.unflatten(2, (-1, 4)), *(part.as_strided((B, H, T // 4, 8, D), steps) for part in (k, v))

    def forward(self, x):
        q, k, v = self.parts(x)
        return ((q @ k.mT * D**-0.5).softmax(-1) @ v).flatten(2, 3).transpose(1, 2).flatten(2)

    def truth(self, x):
        q, k, _ = self.parts(x)
        return diagonal(weights(q, k), 2)[..., :4].flatten(2)


@pytest.mark.parametrize("layers", [None, "0"])
def test_naming_a_module_does_not_say_which_of_five_axes_are_batch_and_heads(layers):
    model, x = nn.Sequential(Strided()).eval(), torch.randn(B, T, E)
    with torch.no_grad(), pytest.raises(CaptureError, match="5 axes") as raised, attviz.capture(model, layers=layers):
        model(x)
    assert "attviz.register_layout" in str(raised.value)
    assert "name the module" not in str(raised.value)
    entry = register_layout(
        WeightLayout(lambda module: type(module) is Strided, lambda module, found: found.diagonal(2, -2, -1)[..., :4].flatten(2))
    )
    try:
        assert_right(seen(model, x, layers=layers), model[0].truth(x))
    finally:
        unregister_layout(entry)


class InSlices(Mixer):
    """Attention slicing (diffusers): some texts and heads at a time, to need less memory."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.size = fused, 2

    def attend(self, q, k, v):
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return torch.bmm(torch.baddbmm(torch.empty(len(q), T, T), q, k.mT, beta=0, alpha=D**-0.5).softmax(-1), v)

    def forward(self, x):
        q, k, v = (heads(f(x)).flatten(0, 1) for f in (self.q, self.k, self.v))
        out = torch.zeros_like(q)
        for start in range(0, len(q), self.size):
            part = slice(start, start + self.size)
            out[part] = self.attend(q[part], k[part], v[part])
        return out.unflatten(0, (-1, H)).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_texts_and_heads_in_slices_are_loud_and_read_without_slices(size, fused):
    model, x = nn.Sequential(InSlices(fused)).eval(), torch.randn(B, T, E)
    model[0].size = size
    for layers in (None, "0"):
        with torch.no_grad(), pytest.raises(CaptureError, match="run it without slices"), attviz.capture(model, layers=layers):
            model(x)
    model = copy.deepcopy(model)
    model[0].size = B * H
    assert_right(seen(model, x), model[0].truth(x))


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


class FoldedText(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Embedding(99, E), FoldedAttention()

    def forward(self, input_ids):
        return self.attention(self.embed(input_ids))


def test_token_ids_split_batch_and_heads_of_compiled_code():
    model, ids = FoldedText().eval(), torch.randint(0, 99, (B, T))
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad(), attviz.capture(compiled) as cap:
        compiled(input_ids=ids)
    assert_right(cap, model.attention.truth(model.embed(ids)))


class ByHand(Mixer):
    def weigh(self, scores):
        return scores.exp() / scores.exp().sum(-1, keepdim=True)

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return (self.weigh(q @ k.mT * D**-0.5) @ v).transpose(1, 2).flatten(2)


def test_a_softmax_of_torch_in_place_of_one_written_by_hand():
    model, x = nn.Sequential(ByHand()).eval(), torch.randn(B, T, E)
    assert "can be read" in is_loud(nn.Sequential(Mixed(), model), x)
    model[0].weigh = lambda scores: scores.softmax(-1)
    assert_right(seen(model, x), model[0].truth(x))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch, of vmap over its own kernel
def test_the_whole_batch_in_place_of_vmap():
    model, x = ByHand().eval(), torch.randn(2, B, T, E)
    model.weigh = lambda scores: scores.softmax(-1)
    with pytest.raises(CaptureError, match="flatten"), torch.no_grad(), attviz.capture(model):
        torch.func.vmap(model)(x)
    assert_right(seen(model, x.flatten(0, 1)), model.truth(x.flatten(0, 1)))


def test_weights_that_are_loaded_before_they_are_needed():
    loaded = ByHand().eval()
    loaded.weigh = model_weigh = lambda scores: scores.softmax(-1)
    with torch.device("meta"):
        model = ByHand().eval()
    model.weigh = model_weigh
    with pytest.raises(CaptureError, match="to_empty"):
        attviz.capture(model)
    model.to_empty(device="cpu").load_state_dict(loaded.state_dict())
    x = torch.randn(B, T, E)
    assert_right(seen(model, x), loaded.truth(x))


def test_a_fresh_copy_of_a_module_that_an_attribute_sends_another_way():
    """As ``docs/your-own-model.md`` says: of one module the first forward decides."""

    class Either(Mixer):
        backwards = False

        def forward(self, x):
            k, v = heads(self.k(x)), heads(self.v(x))
            k, v = (k.flip(2), v.flip(2)) if self.backwards else (k, v)
            return F.scaled_dot_product_attention(heads(self.q(x)), k, v).transpose(1, 2).flatten(2)

    model, x = Either().eval(), torch.randn(B, T, E)
    assert_right(seen(model, x), model.truth(x))
    fresh = copy.deepcopy(model)
    fresh.backwards = True
    assert "in a different order" in is_loud(fresh, x)
