"""Which axes are batch, heads, queries and keys; and what is no attention among tokens, though its sizes agree."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attviz.errors import CaptureError
from tests.evidence.judge import B, D, E, H, T, assert_right, diagonal, heads, is_loud, seen, weights


class Qkv(nn.Module):
    """Projections for the styles below."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)

    def truth(self, x):
        return diagonal(weights(heads(self.q(x)), heads(self.k(x))))


class HeadsLast(Qkv):
    def forward(self, x):
        q, k, v = (f(x).view(len(x), -1, H, D) for f in (self.q, self.k, self.v))
        return torch.einsum("bqhk,bkhd->bqhd", (torch.einsum("bqhd,bkhd->bqhk", q, k) / math.sqrt(D)).softmax(-1), v).flatten(2)


class HeadsFirst(Qkv):
    def forward(self, x):
        q, k, v = (f(x).view(len(x), -1, H, D).permute(2, 0, 1, 3) for f in (self.q, self.k, self.v))
        return ((q @ k.mT / math.sqrt(D)).softmax(-1) @ v).permute(1, 2, 0, 3).flatten(2)


class HeadsFirstFused(Qkv):
    def forward(self, x):
        q, k, v = (f(x).view(len(x), -1, H, D).permute(2, 0, 1, 3) for f in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v).permute(1, 2, 0, 3).flatten(2)


class FoldedHeadsFirst(Qkv):
    """Set Transformer: slices of the features on top of each other."""

    def forward(self, x):
        q, k, v = (torch.cat(f(x).split(D, 2), 0) for f in (self.q, self.k, self.v))
        return torch.cat(((q @ k.mT / math.sqrt(D)).softmax(2) @ v).split(len(x), 0), 2)


class FoldedBatchFirst(Qkv):
    """fairseq and PyTorch: ``[batch * num_heads, tokens, tokens]``, and a head attribute that says something else."""

    heads = 1

    def forward(self, x):
        q, k, v = (f(x).view(len(x), -1, H, D).transpose(1, 2).reshape(-1, x.shape[1], D) for f in (self.q, self.k, self.v))
        out = torch.bmm(torch.baddbmm(torch.zeros(1), q, k.mT, beta=0, alpha=D**-0.5).softmax(-1), v)
        return out.view(len(x), H, -1, D).transpose(1, 2).flatten(2)


class FoldedFused(Qkv):
    def forward(self, x):
        q, k, v = (f(x).view(len(x), -1, H, D).transpose(1, 2).reshape(-1, x.shape[1], D) for f in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v).view(len(x), H, -1, D).transpose(1, 2).flatten(2)


class TokensFirst(Qkv):
    """``[tokens, batch, features]`` in and out."""

    def forward(self, x):
        x = x.transpose(0, 1)
        q, k, v = (f(x).view(len(x), -1, D).transpose(0, 1) for f in (self.q, self.k, self.v))
        out = (torch.bmm(q, k.mT) / math.sqrt(D)).softmax(-1) @ v
        return out.transpose(0, 1).reshape(*x.shape).transpose(0, 1)


class KeysFirst(Qkv):
    """The matrix lies on its side: ``[keys, queries]``, summed over the keys (fastai, SAGAN)."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return (v.mT @ (k @ q.mT / math.sqrt(D)).softmax(2)).mT.transpose(1, 2).flatten(2)


class Additive(Qkv):
    """Multiplied and summed by hand."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        scores = (q[..., :, None, :] * k[..., None, :, :]).sum(-1) / math.sqrt(D)
        return (scores.softmax(-1)[..., None] * v[..., None, :, :]).sum(-2).transpose(1, 2).flatten(2)


class WithDropout(Qkv):
    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return (F.dropout((q @ k.mT / math.sqrt(D)).softmax(-1), 0.3, True) @ v).transpose(1, 2).flatten(2)


class ZeroedAfterwards(Qkv):
    """ESPnet, WeNet: what was masked before the softmax is set to zero once more behind it."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        hidden = torch.ones(T, T).triu(1).bool()
        weights = (q @ k.mT / math.sqrt(D)).masked_fill(hidden, torch.finfo(torch.float32).min).softmax(-1).masked_fill(hidden, 0.0)
        return (weights @ v).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(weights(heads(self.q(x)), heads(self.k(x)), torch.full((T, T), -torch.inf).triu(1)))


class OneByOne(Qkv):
    """Heads in a Python loop."""

    def forward(self, x):
        found = []
        for h in range(H):
            q, k, v = (f(x)[..., h * D : (h + 1) * D] for f in (self.q, self.k, self.v))
            found.append((q @ k.mT / math.sqrt(D)).softmax(-1) @ v)
        return torch.cat(found, -1)


class EveryOther(Qkv):
    """Rotary positions, written into every other feature of an empty tensor (Wan)."""

    def turned(self, x):
        x = x.view(len(x), -1, H, D)
        angle = torch.arange(x.shape[1])[:, None, None] * torch.logspace(0, -2, D // 2)
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        out = torch.empty_like(x)
        out[..., 0::2] = even * angle.cos() - odd * angle.sin()
        out[..., 1::2] = even * angle.sin() + odd * angle.cos()
        return out.transpose(1, 2)

    def forward(self, x):
        v = self.v(x).view(len(x), -1, H, D).transpose(1, 2)
        return F.scaled_dot_product_attention(self.turned(self.q(x)), self.turned(self.k(x)), v).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(weights(self.turned(self.q(x)), self.turned(self.k(x))))


class MultiQuery(Qkv):
    """One key for all heads, by broadcasting."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), self.k(x)[:, None, :, :D], self.v(x)[:, None, :, :D]
        return ((q @ k.mT / math.sqrt(D)).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(weights(heads(self.q(x)), self.k(x)[:, None, :, :D]))


class Relative(Qkv):
    """Transformer-XL: a term by distance, shifted by padding and reshaping; T5 bias; ALiBi."""

    def __init__(self) -> None:
        super().__init__()
        self.distance, self.table = nn.Parameter(torch.randn(T, D)), nn.Embedding(2 * T, H)

    def scores(self, q, k):
        by_distance = F.pad(q @ self.distance.to(q.dtype).mT, (1, 0)).view(len(q), H, T + 1, T)[:, :, 1:]
        places = torch.arange(T)
        bias = self.table(places[None] - places[:, None] + T).permute(2, 0, 1)
        return (q @ k.mT + by_distance) / math.sqrt(D) + bias.to(q.dtype) - (places[None] - places[:, None]).abs() * 0.1

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return (self.scores(q, k).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(self.scores(heads(self.q(x)).double(), heads(self.k(x)).double()).softmax(-1))


class Sinks(Qkv):
    """A learned key before the others, a learned logit behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.null, self.quiet = nn.Parameter(torch.randn(1, H, 1, D)), nn.Parameter(torch.randn(H))

    def scores(self, q, k):
        k = torch.cat([self.null.expand(len(k), -1, -1, -1).to(k.dtype), k], 2)
        return torch.cat([q @ k.mT / math.sqrt(D), self.quiet.to(q.dtype).view(1, H, 1, 1).expand(len(q), -1, q.shape[2], 1)], -1)

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return (self.scores(q, k).softmax(-1)[..., 1:-1] @ v).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(self.scores(heads(self.q(x)).double(), heads(self.k(x)).double()).softmax(-1), 1)


class NullKeyFused(Qkv):
    """A learned key in front of the keys, through SDPA."""

    def __init__(self) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(2, H, 2, D))

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        k, v = (torch.cat([null.expand(len(x), -1, -1, -1), part], 2) for null, part in zip(self.null, (k, v), strict=True))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def truth(self, x):
        k = torch.cat([self.null[0].expand(len(x), -1, -1, -1), heads(self.k(x))], 2)
        return diagonal(weights(heads(self.q(x)), k), 2)


STYLES = [
    HeadsLast, HeadsFirst, HeadsFirstFused, FoldedHeadsFirst, FoldedBatchFirst, FoldedFused, TokensFirst, KeysFirst, Additive, WithDropout,
    ZeroedAfterwards, MultiQuery, Relative, Sinks, NullKeyFused, EveryOther,
]  # fmt: skip


@pytest.mark.parametrize("batch", [B, H, T, 1])
@pytest.mark.parametrize("style", STYLES)
def test_styles(style, batch):
    """Batch, heads, tokens and head size that are equal on purpose."""
    model, x = style().eval(), torch.randn(batch, T, E)
    for _ in range(2):  # followed, then by what was shown
        assert_right(seen(model, x), model.truth(x))


class NullKeysBehind(NullKeyFused):
    """Two learned keys behind the keys, which can be switched off."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.switched_on, self.fused = True, fused

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        if self.switched_on:
            k, v = (torch.cat([part, null.expand(len(x), -1, -1, -1)], 2) for null, part in zip(self.null, (k, v), strict=True))
        out = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT / math.sqrt(D)).softmax(-1) @ v
        return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("fused", [True, False])
def test_keys_that_are_fewer_than_were_followed_are_loud(fused):
    model, x = NullKeysBehind(fused).eval(), torch.randn(B, T, E)
    k = torch.cat([heads(model.k(x)), model.null[0].expand(len(x), -1, -1, -1)], 2)
    assert_right(seen(model, x), diagonal(weights(heads(model.q(x)), k)))
    model.switched_on = False
    with pytest.raises(
        CaptureError, match=rf"q_len={T} but kv_len={T}: the keys are fewer than in the call that was followed \(2 behind\)"
    ):
        seen(model, x)


@pytest.mark.parametrize("style", [HeadsLast, HeadsFirst, FoldedHeadsFirst, FoldedBatchFirst, TokensFirst, KeysFirst])
def test_what_was_shown_holds_for_other_sizes(style):
    model = style().eval()
    seen(model, torch.randn(B, T, E))
    x = torch.randn(5, 11, E)
    assert_right(seen(model, x), model.truth(x))


class Windows(Qkv):
    """Windows between heads and queries: ``[batch, num_heads, windows, 4, 4]``."""

    def split(self, x):
        return x.view(len(x), -1, 4, H, D).permute(0, 3, 1, 2, 4)

    def forward(self, x):
        q, k, v = (self.split(f(x)) for f in (self.q, self.k, self.v))
        return ((q @ k.mT / math.sqrt(D)).softmax(-1) @ v).permute(0, 2, 3, 1, 4).reshape(x.shape)

    def truth(self, x):
        return diagonal(weights(self.split(self.q(x)), self.split(self.k(x)))).permute(0, 2, 1, 3).flatten(0, 1)


@pytest.mark.parametrize("length", [T, 16])
def test_windows_belong_to_the_batch(length):
    model, x = Windows().eval(), torch.randn(B, length, E)
    assert_right(seen(model, x), model.truth(x))


class Grid(Qkv):
    """Axial attention over the rows of a grid of features, as convolutional models hold them."""

    def forward(self, image):
        x = image.permute(0, 2, 3, 1)
        q, k, v = (f(x).unflatten(-1, (H, D)).transpose(2, 3) for f in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(3).permute(0, 3, 1, 2)


def test_axial_attention():
    model, image = Grid().eval(), torch.randn(B, E, T, T)
    x = image.permute(0, 2, 3, 1).flatten(0, 1)
    assert_right(seen(model, image), diagonal(weights(heads(model.q(x)), heads(model.k(x)))))


# ---- no attention among tokens, though sizes agree


class Channels(Qkv):
    """XCiT, Restormer: features by features."""

    def forward(self, x):
        q, k, v = (heads(f(x)).mT for f in (self.q, self.k, self.v))
        return ((F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1) @ v).mT.transpose(1, 2).flatten(2)


class Projected(Qkv):
    """Linformer, with as many projected keys as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(T, T, bias=False)

    def forward(self, x):
        k, v = (self.down(f(x).mT).mT for f in (self.k, self.v))
        return F.scaled_dot_product_attention(heads(self.q(x)), heads(k), heads(v)).transpose(1, 2).flatten(2)


class Linear(Qkv):
    """Two softmaxes, over features and over tokens, and no matrix of tokens by tokens."""

    def forward(self, x):
        q, k, v = heads(self.q(x)).softmax(-1), heads(self.k(x)).softmax(-2), heads(self.v(x))
        return (q @ (k.mT @ v)).transpose(1, 2).flatten(2)


class Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer, self.experts = nn.Linear(E, T), nn.Parameter(torch.randn(T, E, E))

    def forward(self, x):
        return torch.einsum("bte,bted->btd", self.mixer(x).softmax(-1), torch.einsum("btc,ecd->bted", x, self.experts))


class Merger(Qkv):
    """PatchMerger, Perceiver, pooling heads: learned queries, as many as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(T, E))

    def forward(self, x):
        return (self.queries @ self.k(x).mT).softmax(-1) @ x


class HeadsByHeads(Qkv):
    """Each token mixes its heads by attention among them."""

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (H, D)) for f in (self.q, self.k, self.v))
        return ((q @ k.mT).softmax(-1) @ v).flatten(-2)


@pytest.mark.parametrize("model", [Channels, Projected, Linear, Router, Merger, HeadsByHeads])
def test_what_is_no_attention_among_tokens_is_not_recorded(model):
    beside = nn.Sequential(HeadsLast(), model()).eval()
    x = torch.randn(B, T, E)
    assert_right(seen(beside, x), beside[0].truth(x))


# ---- loud


class MadeSlots(Qkv):
    """Weights over the tokens make slots of them (GroupViT, MLP-Mixer), which attend among themselves and to slots made elsewhere."""

    def __init__(self, fused: bool, beside: bool) -> None:
        super().__init__()
        self.down, self.fused, self.beside = nn.Linear(T, 5), fused, nn.Parameter(torch.randn(1, 3, E)) if beside else None

    def slots(self, x):
        slots = self.down(x.mT).mT
        return slots if self.beside is None else torch.cat([slots, self.beside + slots[:, :3]], 1)

    def forward(self, x):
        x = self.slots(x)
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return ((q @ k.mT * D**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_slots_that_weights_made_of_the_tokens_are_loud_and_read_where_the_module_is_named(fused, beside):
    model, x = nn.Sequential(HeadsLast(), MadeSlots(fused, beside)).eval(), torch.randn(B, T, E)
    message = is_loud(model, x)
    assert "'1'" in message
    assert "slots or channels that weights made of the tokens" in message
    assert "name the module in layers=" in message
    slots = model[1].slots(model[0](x))
    assert_right(seen(model, x, layers="1"), diagonal(weights(heads(model[1].q(slots)), heads(model[1].k(slots)))))


class Differential(Qkv):
    """Two softmaxes, one taken from the other: neither is the matrix in use."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        one, two = ((a @ b.mT).softmax(-1) for a, b in zip(q.chunk(2, -1), k.chunk(2, -1), strict=True))
        return ((one - 0.5 * two) @ v).transpose(1, 2).flatten(2)


class Talking(Qkv):
    """Heads mixed behind the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(H, H, 1)

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return (self.mix((q @ k.mT).softmax(-1)) @ v).transpose(1, 2).flatten(2)


class Renormalised(Qkv):
    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        weights = (q @ k.mT).softmax(-1) * torch.ones(T, T).tril()
        return ((weights / weights.sum(-1, keepdim=True)) @ v).transpose(1, 2).flatten(2)


class HeadsFirstAttention(HeadsLast):
    """A softmax of heads by heads, whose result nobody uses, before the attention (SAM 2)."""

    def forward(self, x):
        q, k = (f(x).view(len(x), -1, H, D) for f in (self.q, self.k))
        (q @ k.mT).softmax(-1)
        return super().forward(x)


def test_a_softmax_among_heads_hides_no_attention_after_it():
    model, x = nn.Sequential(HeadsFirstAttention()).eval(), torch.randn(B, T, E)
    for _ in range(2):
        assert_right(seen(model, x), model[0].truth(x))


class Slots(Qkv):
    """A softmax over the queries, summed over the keys."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return ((q @ k.mT).softmax(-2) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("model", [Differential, Talking, Renormalised, Slots])
def test_weights_changed_behind_their_softmax_are_loud(model):
    assert "before it weighs the values" in is_loud(model().eval(), torch.randn(B, T, E))


def test_heads_in_a_loop_are_loud():
    assert "one after the other" in is_loud(OneByOne().eval(), torch.randn(B, T, E))


class ByHand(Qkv):
    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        weights = torch.exp(q @ k.mT - (q @ k.mT).amax(-1, keepdim=True))
        return ((weights / weights.sum(-1, keepdim=True)) @ v).transpose(1, 2).flatten(2)


class ByLogarithm(Qkv):
    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return ((q @ k.mT).log_softmax(-1).exp() @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("model", [ByHand, ByLogarithm])
def test_softmax_by_hand_is_loud_beside_a_readable_layer(model):
    assert "exponentials that no attention operator showed" in is_loud(nn.Sequential(HeadsLast(), model()).eval(), torch.randn(B, T, E))


class Out(Qkv):
    """softmax(out=), of one text without batch and heads."""

    def forward(self, x):
        scores = self.q(x) @ self.k(x).mT / math.sqrt(E)
        return torch.softmax(scores, -1, out=torch.empty_like(scores)) @ self.v(x)


def test_softmax_into_a_buffer_of_one_text():
    model, x = Out().eval(), torch.randn(T, E)
    assert_right(seen(model, x), diagonal(weights(model.q(x), model.k(x)))[None, None])


class NothingYet(Qkv):
    """DETR's first decoder layer: object queries attend to each other, and their values are zeros so far."""

    def __init__(self):
        super().__init__()
        self.places = nn.Embedding(T, E)

    def forward(self, x):
        places = self.places.weight[None].repeat(len(x), 1, 1)
        nothing = torch.zeros_like(places)
        q, k, v = (heads(f(part)) for f, part in ((self.q, nothing + places), (self.k, nothing + places), (self.v, nothing)))
        return x + ((q @ k.mT * D**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def truth(self, x):
        q, k = (heads(f(self.places.weight[None].repeat(len(x), 1, 1))).double() for f in (self.q, self.k))
        return (q @ k.mT * D**-0.5).softmax(-1).diagonal(0, -2, -1)


class Chosen(Qkv):
    """Grounding DINO: the tokens with the largest scores say where, what was learned says what, and only that is weighed."""

    def __init__(self):
        super().__init__()
        self.what, self.score = nn.Embedding(5, E), nn.Linear(E, 1)

    def parts(self, x):
        best = self.score(x)[..., 0].topk(5, dim=1).indices
        where = x.gather(1, best[..., None].expand(-1, -1, E))
        what = self.what.weight[None].repeat(len(x), 1, 1)
        return heads(self.q(what + where)), heads(self.k(what + where)), heads(self.v(what))

    def forward(self, x):
        q, k, v = self.parts(x)
        return ((q @ k.mT * D**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(weights(*self.parts(x)[:2]))


def test_learned_values_of_chosen_tokens_are_weighed():
    model, x = Chosen().eval(), torch.randn(B, T, E)
    assert_right(seen(model, x), model.truth(x))


def test_values_that_hold_nothing_yet_are_weighed_all_the_same():
    model, x = NothingYet().eval(), torch.randn(B, T, E)
    assert_right(seen(model, x), model.truth(x))


class KeysMixed(Qkv):
    """Weights that learned weights change along the keys."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(T, T)

    def forward(self, x):
        q, k, v = (heads(f(x)) for f in (self.q, self.k, self.v))
        return (self.mix((q @ k.mT * D**-0.5).softmax(-1)) @ v).transpose(1, 2).flatten(2)


def test_weights_that_are_mixed_along_the_keys_are_loud():
    assert "a product with learned weights" in is_loud(KeysMixed().eval(), torch.randn(B, T, E))
