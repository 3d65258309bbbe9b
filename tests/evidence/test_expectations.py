"""Names only raise expectations; what is missed is loud, a cure that a message names gives right numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attviz
from attviz.errors import CaptureError
from tests.evidence.judge import B, D, E, H, T, assert_right, diagonal, heads, seen, weights
from tests.tiny import Encoder, reference


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return ((q @ k.mT / math.sqrt(D)).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(weights(heads(self.q(x)), heads(self.k(x))))


class Unseen(Plain):
    """A softmax that nothing shows."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        scores = torch.exp2(q @ k.mT)
        return ((scores / scores.sum(-1, keepdim=True)) @ v).transpose(1, 2).flatten(2)


NAMES = [
    "RelPositionMultiHeadAttention",
    "MaskedSelfAttention",
    "QKNormAttention",
    "MaskUnitAttention",
    "LightningAttention",
    "OutputGateAttn",
]


@pytest.mark.parametrize("name", NAMES)
def test_words_before_attention_make_it_nothing_else(name):
    """It is expected: unseen beside a readable layer, it is loud."""
    model = nn.Sequential(Plain(), type(name, (Unseen,), {})()).eval()
    with pytest.raises(CaptureError, match="'1': it weighs tokens with exponentials"), torch.no_grad(), attviz.capture(model):
        model(torch.randn(B, T, E))


@pytest.mark.parametrize("name", ["PropagateLayer", "MoEBlock", "GatedUnit", "ExpertPool", "TopKRouterLayer", "Classifier"])
@pytest.mark.parametrize("train", [True, False])
def test_attention_in_a_class_of_any_name_is_read(name, train):
    model, x = nn.Sequential(type(name, (Plain,), {})()).train(train), torch.randn(B, T, E)
    assert_right(seen(model, x), model[0].truth(x))


class SpatialAttention(nn.Module):
    """CBAM: a convolution and a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.two(self.one(torch.stack([x.mean(1), x.amax(1)], 1))))


def test_convolutions_called_attention_are_no_miss():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spatial, self.plain = SpatialAttention(), Plain()

        def forward(self, x):
            return self.plain(self.spatial(x).flatten(2).mT)

    model, image = Net().eval(), torch.randn(B, E, 2, 4)
    cap = seen(model, image)
    assert_right(cap, model.plain.truth(model.spatial(image).flatten(2).mT))
    assert "no softmax" in cap.skipped["spatial"]


# ---- cures


@pytest.mark.parametrize("layers", ["", None])
@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"add_bias_kv": True, "add_zero_attn": True}])
@pytest.mark.parametrize("need_weights", [True, False])
def test_learned_and_zero_keys_of_torch(options, need_weights, layers):
    attention, x = nn.MultiheadAttention(E, H, batch_first=True, **options).eval(), torch.randn(B, T, E)
    cap = seen(attention, x, x, x, need_weights=need_weights, layers=layers)
    query, key, _ = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    if "add_bias_kv" in options:
        key = torch.cat([key, attention.bias_k.expand(B, 1, E)], 1)
    if "add_zero_attn" in options:
        key = torch.cat([key, torch.zeros(B, 1, E)], 1)
    assert_right(cap, diagonal(weights(heads(query), heads(key))))


class Cached(Plain):
    """A cache of one's own: a growing one, or a buffer of fixed length with what is unused masked."""

    def __init__(self, static: bool, fused: bool) -> None:
        super().__init__()
        self.static, self.fused = static, fused
        self.register_buffer("keys", torch.zeros(B, H, 16, D), persistent=False)
        self.register_buffer("values", torch.zeros(B, H, 16, D), persistent=False)

    def forward(self, x, start=0):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        end = start + x.shape[1]
        self.keys[:, :, start:end], self.values[:, :, start:end] = k, v
        stop = 16 if self.static else end
        k, v = self.keys[:, :, :stop], self.values[:, :, :stop]
        visible = torch.arange(stop)[None] <= torch.arange(start, end)[:, None]
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, visible).transpose(1, 2).flatten(2)
        scores = (q @ k.mT / math.sqrt(D)).masked_fill(~visible, -torch.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("layers", ["", None])
def test_hand_written_caches(static, fused, layers):
    model, x = Cached(static, fused).eval(), torch.randn(B, 9, E)
    expected = diagonal(weights(heads(model.q(x)), heads(model.k(x)), torch.full((9, 9), -torch.inf).triu(1)))
    with torch.no_grad(), attviz.capture(model, keep="all", layers=layers) as cap:
        model(x[:, :5])
        for place in range(5, 9):
            model(x[:, place : place + 1], place)
    found = torch.cat([step[0].diagonal for step in cap.steps], -1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_strict_false_goes_on_without_the_layers_that_could_not_be_told():
    class Mixed(Plain):
        def forward(self, x):
            w = (heads(self.q(x)) @ heads(self.k(x)).mT).softmax(-1)
            return ((w @ w) @ heads(self.v(x))).transpose(1, 2).flatten(2)

    model, x = nn.Sequential(Plain(), Mixed()).eval(), torch.randn(B, T, E)
    with pytest.raises(CaptureError, match="whose attention could not be"), torch.no_grad(), attviz.capture(model):
        model(x)
    with torch.no_grad(), attviz.capture(model, layers="0") as cap:
        model(x)
    assert_right(cap, model[0].truth(x))
    with (
        pytest.warns(attviz.errors.CaptureWarning, match="whose attention could not be"),
        torch.no_grad(),
        attviz.capture(model, strict=False) as cap,
    ):
        model(x)
    assert cap.layers == ("0",)
    assert set(cap.missed) == {"1"}


# ---- compiled


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("layers", ["blocks.1", "blocks.1.attention", 1])
def test_layers_of_a_wholly_compiled_model(in_place, layers):
    model, x = Encoder().eval(), torch.randn(2, 7, 32)
    expected = reference(model, x)[1:2]
    if in_place:
        model.compile(backend="aot_eager")
        compiled = model
    else:
        compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        compiled(x)
        with attviz.capture(compiled, layers=layers) as cap:
            compiled(x)
            compiled(x)
    assert cap.layers == ("blocks.1.attention",)
    torch.testing.assert_close(cap.diagonal.double(), expected, rtol=0, atol=1e-6)


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.self_attn, self.cross_attn = (nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(3))

    def forward(self, source, target):
        memory = self.encoder(source, source, source, need_weights=False)[0]
        target = self.self_attn(target, target, target, need_weights=False)[0]
        return self.cross_attn(target, memory, memory, need_weights=False)[0]


@pytest.mark.parametrize("length", [7, 5])
def test_wholly_compiled_encoder_and_decoder(length):
    model, source, target = EncoderDecoder().train(), torch.randn(2, 7, 32), torch.randn(2, length, 32)
    with torch.no_grad():
        with attviz.capture(model) as plain:
            model(source, target)
        compiled = torch.compile(model, backend="aot_eager")
        with attviz.capture(compiled) as cap:
            compiled(source, target)
            compiled(source, target)
    assert cap.layers == ("encoder", "self_attn")
    assert set(cap.skipped) == {"cross_attn"}
    for record, other in zip(cap.records, plain.records, strict=True):
        torch.testing.assert_close(record.diagonal, other.diagonal, rtol=0, atol=1e-6)


class TalkingHeads(Plain):
    """A learned matrix mixes the heads after the softmax (arXiv:2003.02436): the matrix in use is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(H, H, bias=False)

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        mixed = self.mix((q @ k.mT / math.sqrt(D)).softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return (mixed @ v).transpose(1, 2).flatten(2)


def test_heads_that_are_mixed_after_the_softmax_are_loud():
    model = TalkingHeads().eval()
    with pytest.raises(CaptureError, match="a product with learned weights"), torch.no_grad(), attviz.capture(model):
        model(torch.randn(B, T, E))


@pytest.mark.parametrize("reorder", [lambda key: key.flip(2), lambda key: key.roll(1, 2)], ids=["flip", "roll"])
def test_keys_in_another_order_than_the_queries_are_loud(reorder):
    """The key at a query's own place is another token's."""

    class Reordered(Plain):
        def forward(self, x):
            q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
            return F.scaled_dot_product_attention(q, reorder(k), reorder(v)).transpose(1, 2).flatten(2)

    model = Reordered().eval()
    with pytest.raises(CaptureError, match="in a different order"), torch.no_grad(), attviz.capture(model):
        model(torch.randn(B, T, E))
