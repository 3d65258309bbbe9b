"""Code of other habits: windows that look around, graphs, chunks, weights without a softmax. Right, or loud every time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.evidence.judge import B, D, E, H, T, assert_right, diagonal, heads, is_loud, seen, weights


class Qkv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)


class Plain(Qkv):
    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(weights(heads(self.q(x)), heads(self.k(x))))


# ---- windows beside their neighbours

PLACES = {
    "before": lambda k: F.pad(k, (0, 0, 0, 0, 1, 0))[:, :, :-1],
    "own": lambda k: k,
    "behind": lambda k: F.pad(k, (0, 0, 0, 0, 0, 1))[:, :, 1:],
    "rolled": lambda k: k.roll(1, 2),
}


class LooksAround(Qkv):
    """Each window of 4 tokens sees the windows beside it: their places within a window are no tokens of its own."""

    def __init__(self, order, fused: bool) -> None:
        super().__init__()
        self.order, self.fused = order, fused

    def parts(self, x):
        q, k, v = (heads(f(x)).unflatten(2, (-1, 4)) for f in (self.q, self.k, self.v))
        return q, *(torch.cat([PLACES[place](part) for place in self.order], 3) for part in (k, v))

    def forward(self, x):
        q, k, v = self.parts(x)
        out = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT * D**-0.5).softmax(-1) @ v
        return out.flatten(2, 3).transpose(1, 2).flatten(2)

    def truth(self, x):
        q, k, _ = self.parts(x)
        return diagonal(weights(q, k), 4 * self.order.index("own"))[..., :4].transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("order", [("before", "own", "behind"), ("before", "own"), ("own", "behind"), ("own", "rolled"), ("rolled", "own")])
def test_windows_that_look_at_their_neighbours(order, fused):
    model = LooksAround(order, fused).eval()
    for length in (16, 24):
        x = torch.randn(B, length, E)
        assert_right(seen(model, x), model.truth(x))


class Unfolded(Qkv):
    """Blocks of 4 tokens, each over a window that reaches beyond it (Gemma's audio tower): the keys are padded and unfolded."""

    def __init__(self, before: int, behind: int, pads: bool, fused: bool) -> None:
        super().__init__()
        self.before, self.behind, self.pads, self.fused = before, behind, pads, fused

    def padded(self, x, before, behind):
        if self.pads:
            return F.pad(x, (0, 0, 0, 0, before, behind))
        left, right = (x.new_zeros(len(x), n, *x.shape[2:]) for n in (before, behind))
        return torch.cat([left, x, right], 1)

    def windows(self, x):
        return self.padded(x, self.before, self.behind + 3).unfold(1, self.before + 4 + self.behind, 4).movedim(-1, 3)

    def parts(self, x):
        q, k, v = (f(x).unflatten(-1, (H, D)) for f in (self.q, self.k, self.v))
        blocks = self.padded(q, 0, -len(q[0]) % 4).unflatten(1, (-1, 4)).transpose(2, 3)
        real = self.padded(torch.ones(*x.shape[:2], 1, 1), self.before, self.behind + 3)[..., 0, 0]
        sees = real.unfold(1, self.before + 4 + self.behind, 4)[:, :, None, None] > 0
        return blocks, self.windows(k), self.windows(v), sees  # [batch, blocks, heads, tokens, features]

    def forward(self, x):
        q, k, v, sees = self.parts(x)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v, sees)
        else:
            out = (q @ k.mT * D**-0.5).masked_fill(~sees, -1e9).softmax(-1) @ v
        return out.transpose(2, 3).flatten(1, 2)[:, : x.shape[1]].flatten(2)

    def truth(self, x):
        q, k, _, sees = self.parts(x)
        hidden = torch.zeros(sees.shape, dtype=torch.float64).masked_fill(~sees, -torch.inf)
        own = diagonal(weights(q, k, hidden), self.before)[..., :4].flatten(0, 1)
        real = (torch.arange(own.shape[0] // len(x) * 4) < x.shape[1]).unflatten(0, (-1, 4)).repeat(len(x), 1)
        return torch.where(real[:, None], own, torch.nan)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize(("before", "behind"), [(4, 0), (3, 2), (6, 5)])
def test_blocks_whose_windows_reach_beyond_them(before, behind, pads, fused):
    for lengths in ((16, 22, 24), (22, 16)):
        model = Unfolded(before, behind, pads, fused).eval()
        for length in lengths:
            x = torch.randn(B, length, E)
            assert_right(seen(model, x), model.truth(x))


class OtherText(Qkv):
    """Keys of the own text, and behind them those of the next text of the batch, at the same places."""

    def forward(self, x):
        k, v = (torch.cat([heads(f(x)), heads(f(x)).roll(1, 0)], 2) for f in (self.k, self.v))
        return F.scaled_dot_product_attention(heads(self.q(x)), k, v).transpose(1, 2).flatten(2)


def test_another_text_at_the_same_places_is_not_the_own_one():
    model, x = OtherText().eval(), torch.randn(B, T, E)
    key = heads(model.k(x))
    assert_right(seen(model, x), diagonal(weights(heads(model.q(x)), torch.cat([key, key.roll(1, 0)], 2)))[..., :T])


# ---- graphs, texts of a batch, dropout by hand

EDGES = (torch.rand(T, T, generator=torch.Generator().manual_seed(0)) < 0.5) | torch.eye(T).bool()


class GraphLayer(nn.Module):
    """The textbook GAT layer: a sum of two scores, one graph, and its edges as a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.score = nn.Parameter(torch.randn(E, E) / 6), nn.Parameter(torch.randn(2 * E, 1))

    def scores(self, x, edges):
        states = x @ self.weight
        found = F.leaky_relu(states @ self.score[:E] + (states @ self.score[E:]).mT)
        return states, torch.where(edges > 0, found, -9e15)

    def forward(self, x, edges):
        states, scores = self.scores(x, edges)
        return F.dropout(scores.softmax(-1), 0.0, self.training) @ states


@pytest.mark.parametrize("shape", [(T, E), (B, T, E)])
def test_graph_attention_by_a_sum_of_scores(shape):
    model, x, edges = GraphLayer().eval(), torch.randn(shape), EDGES.float()
    truth = diagonal(model.scores(x, edges)[1].double().softmax(-1)).view(-1, 1, T)
    assert_right(seen(model, x, edges), truth)


def test_similarities_among_the_texts_of_a_batch_are_no_attention():
    """A contrastive loss inside the forward."""

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = Plain(), nn.Linear(E, E)

        def forward(self, x):
            pooled = F.normalize(self.head(self.attention(x).mean(1)), dim=-1)
            return (pooled @ pooled.mT / 0.1).softmax(-1).diagonal().log().mean()

    model, x = WithLoss().eval(), torch.randn(T, T, E)
    cap = seen(model, x)
    assert_right(cap, model.attention.truth(x))
    assert "texts of the batch" in cap.skipped[""]


@pytest.mark.parametrize("draw", [torch.rand_like, lambda w: torch.rand(w.shape), lambda w: torch.empty_like(w).uniform_()])
def test_dropout_written_by_hand(draw):
    class Dropping(Plain):
        def forward(self, x):
            w = (heads(self.q(x)) @ heads(self.k(x)).mT * D**-0.5).softmax(-1)
            return (w * ((draw(w) > 0.1).float() / 0.9)) @ heads(self.v(x))

    model, x = Dropping().train(), torch.randn(B, T, E)
    assert_right(seen(model, x), model.truth(x))


# ---- loud, in every capture


def neighbours(k, width):
    return F.pad(k, (0, 0, width // 2, width - 1 - width // 2)).unfold(2, width, 1)


class Neighbourhood(Qkv):
    """One query against the keys around it."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), neighbours(heads(self.k(x)), 3), neighbours(heads(self.v(x)), 3)
        w = (torch.einsum("bhnd,bhndw->bhnw", q, k) * D**-0.5).softmax(-1)
        return torch.einsum("bhnw,bhndw->bhnd", w, v).transpose(1, 2).flatten(2)


class Nearest(Qkv):
    """The nearest tokens, gathered for each (Point Transformer)."""

    def forward(self, x):
        rows, near = torch.arange(len(x))[:, None, None], torch.cdist(x, x).topk(3, largest=False)[1]
        k, v = self.k(x)[rows, near], self.v(x)[rows, near]
        return (((self.q(x)[:, :, None] * k).sum(-1) / math.sqrt(E)).softmax(-1)[..., None] * v).sum(2)


class Chosen(Qkv):
    """The queries that tell most ask, the rest take the mean (Informer)."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        spread = (q @ k.mT).amax(-1) - (q @ k.mT).mean(-1)
        place = torch.arange(len(x))[:, None, None], torch.arange(H)[None, :, None], spread.topk(3)[1]
        out = v.mean(2, keepdim=True).expand_as(v).clone()
        out[place] = (q[place] @ k.mT * D**-0.5).softmax(-1) @ v
        return out.transpose(1, 2).flatten(2)


class InBlocks(Qkv):
    """FlashAttention in Python: running maximum and sum over blocks of keys."""

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        top, total, out = torch.full_like(q[..., :1], -torch.inf), torch.zeros_like(q[..., :1]), torch.zeros_like(q)
        for key, value in zip(k.split(4, 2), v.split(4, 2), strict=True):
            scores = q @ key.mT * D**-0.5
            higher = torch.maximum(top, scores.amax(-1, keepdim=True))
            shown, faded = (scores - higher).exp(), (top - higher).exp()
            top, total, out = higher, total * faded + shown.sum(-1, keepdim=True), out * faded + shown @ value
        return (out / total).transpose(1, 2).flatten(2)


def sparsemax(scores):
    ordered = scores.sort(-1, descending=True)[0]
    above = ordered.cumsum(-1) - 1
    count = (ordered * torch.arange(1, scores.shape[-1] + 1) > above).sum(-1, keepdim=True)
    return (scores - above.gather(-1, count - 1) / count).clamp(min=0)


def normalised(positive):
    return positive / positive.sum(-1, keepdim=True)


BY_HAND = {
    "exp": lambda s: normalised(s.exp()),
    "one more": lambda s: s.exp() / (1 + s.exp().sum(-1, keepdim=True)),
    "exp2": lambda s: normalised(torch.exp2(s)),
    "pow": lambda s: normalised(torch.pow(math.e, s)),
    "expm1": lambda s: normalised(torch.expm1(s) + 1),
    "odds": lambda s: normalised(s.sigmoid() / (1 - s.sigmoid())),
    "softplus": lambda s: normalised(F.softplus(s)),
    "logsumexp": lambda s: (s - s.logsumexp(-1, keepdim=True)).exp(),
    "sparsemax": sparsemax,
}


class Weighing(Qkv):
    def __init__(self, how) -> None:
        super().__init__()
        self.how = how

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        return (self.how(q @ k.mT * D**-0.5) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("model", [Neighbourhood, Nearest, Chosen])
def test_softmaxes_without_a_place_for_the_own_key_are_loud(model):
    """Beside a layer that is read, in a class that nobody expects to attend."""
    model, x = nn.Sequential(Plain(), model()).eval(), torch.randn(B, T, E)
    for _ in range(2):
        assert "'1': " in is_loud(model, x)


@pytest.mark.parametrize("how", [*BY_HAND, "in blocks"])
def test_a_softmax_by_hand_is_loud_in_every_capture(how):
    """The first follows the model, the next knows what it showed."""
    model, x = nn.Sequential(Plain(), InBlocks() if how == "in blocks" else Weighing(BY_HAND[how])).eval(), torch.randn(B, T, E)
    for _ in range(3):
        assert "a softmax written by hand" in is_loud(model, x)


@pytest.mark.parametrize("how", [torch.sigmoid, lambda s: s.relu().square() / T, lambda s: s, lambda s: s * torch.ones(T, T).tril()])
def test_products_of_tokens_without_a_softmax_are_skipped_with_the_reason(how):
    model, x = nn.Sequential(Plain(), Weighing(how)).eval(), torch.randn(B, T, E)
    for _ in range(2):
        cap = seen(model, x)
        assert_right(cap, model[0].truth(x))
        assert "without a softmax" in cap.skipped["1"]


@pytest.mark.parametrize("how", [lambda k: k.flip(0), lambda k: k.roll(1, 0), lambda k: k.sort(0)[0]])
@pytest.mark.parametrize("on_its_side", [True, False])
def test_moved_keys_of_one_text_without_batch_and_heads_are_loud(how, on_its_side):
    class OneText(Qkv):
        def forward(self, x):
            scores = self.q(x) @ how(self.k(x)).mT / math.sqrt(E)
            return (scores.mT.softmax(0).mT if on_its_side else scores.softmax(-1)) @ how(self.v(x))

    assert "in a different order" in is_loud(OneText().eval(), torch.randn(T, E))
