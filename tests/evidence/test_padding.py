"""Which queries are padding: by the mask that the operator works with, however the model was told."""

from __future__ import annotations

import functools
import math
from collections import UserDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BatchEncoding, BertConfig, BertModel

import attviz
from tests.evidence.judge import B, D, E, H, T, diagonal, heads, seen, weights

LENGTHS = torch.tensor([T, 5, 3])
REAL = torch.arange(T)[None] < LENGTHS[:, None]


def truth(query, key, real=REAL, causal=False):
    mask = torch.zeros(B, 1, T, T, dtype=torch.float64).masked_fill(~real[:, None, None], -torch.inf)
    if causal:
        mask = mask + torch.full((T, T), -torch.inf).triu(1)
    return torch.where(real[:, None], diagonal(weights(query, key, mask)), torch.nan)


class Padded(nn.Module):
    """Makes its own mask of whatever it is given."""

    def __init__(self, constant: float, fused: bool, causal: bool = False, kind: str = "fill") -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)
        self.constant, self.fused, self.causal, self.kind = constant, fused, causal, kind

    def forward(self, x, lengths):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        hidden = (torch.arange(T)[None] >= lengths[:, None])[:, None, None]
        if self.causal:
            hidden = hidden | torch.ones(T, T).triu(1).bool()
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, hidden.logical_not()).transpose(1, 2).flatten(2)
        scores = q @ k.mT / math.sqrt(D)
        if self.kind == "in place":
            scores.masked_fill_(hidden, self.constant)
        else:
            scores = scores.masked_fill(hidden, self.constant) if self.kind == "fill" else scores + hidden * self.constant
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("constant", "fused", "kind"),
    [(-1e9, False, "fill"), (-1e9, False, "add"), (-1e4, False, "add"), (-torch.inf, False, "fill"),
     (torch.finfo(torch.float32).min, False, "fill"), (-torch.inf, False, "in place"), (0.0, True, "fill")],
)  # fmt: skip
def test_mask_made_inside_the_model(constant, fused, kind, causal):
    model, x = Padded(constant, fused, causal, kind).eval(), torch.randn(B, T, E)
    cap = seen(model, x, LENGTHS)
    torch.testing.assert_close(
        cap.diagonal[0].double(), truth(heads(model.q(x)), heads(model.k(x)), causal=causal), rtol=0, atol=1e-5, equal_nan=True
    )
    assert torch.equal(cap.query_mask, REAL)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_key_padding_mask_of_a_module_inside(dtype, train, need_weights):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(E, H, batch_first=True)

        def forward(self, x, mask):
            hidden = ~mask if dtype is torch.bool else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
            return self.attn(x, x, x, key_padding_mask=hidden, need_weights=need_weights)[0]

    model, x = Wrapped().train(train), torch.randn(B, T, E)
    cap = seen(model, x, REAL)
    query, key, _ = (heads(part) for part in F.linear(x, model.attn.in_proj_weight, model.attn.in_proj_bias).chunk(3, -1))
    torch.testing.assert_close(cap.diagonal[0].double(), truth(query, key), rtol=0, atol=1e-5, equal_nan=True)
    assert torch.equal(cap.query_mask, REAL)


@pytest.mark.parametrize("constant", [-1e9, -torch.inf, -5e4])
def test_attention_that_looks_away_from_itself_is_no_padding(constant):
    class Away(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(E, E)

        def forward(self, x):
            q = heads(self.q(x))
            return ((q @ q.mT).masked_fill(torch.eye(T).bool(), constant).softmax(-1) @ q).transpose(1, 2).flatten(2)

    cap = seen(Away().eval(), torch.randn(B, T, E))
    assert torch.equal(cap.diagonal, torch.zeros(1, B, H, T))
    assert cap.query_mask.all()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_padding_beside_tokens_that_do_not_see_themselves(fused, before):
    """Padding is what no other token sees, but where all see only what is before them: there nobody sees the last token either."""

    class Away(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)

        def forward(self, x, lengths):
            q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
            sees = (torch.arange(T)[None] < lengths[:, None])[:, None, None] & self.others()
            k, v, sees = F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0)), F.pad(sees, (1, 0), value=True)  # and all see a null key
            if fused:
                return F.scaled_dot_product_attention(q, k, v, sees).transpose(1, 2).flatten(2)
            return ((q @ k.mT / math.sqrt(D)).masked_fill(~sees, -1e9).softmax(-1) @ v).transpose(1, 2).flatten(2)

        def others(self):
            return torch.ones(T, T).tril(-1).bool() if before else ~torch.eye(T).bool()

    model = Away().eval()
    whole = seen(model, torch.randn(B, T, E), torch.full((B,), T))
    assert torch.equal(whole.diagonal, torch.zeros(1, B, H, T))
    assert whole.query_mask.all()
    padded = seen(model, torch.randn(B, T, E), LENGTHS)
    assert torch.equal(padded.query_mask, REAL | before)
    assert torch.equal(padded.diagonal[0].isnan(), ~padded.query_mask[:, None].expand(B, H, T))
    assert not padded.diagonal.nan_to_num(0.0).any()


@pytest.mark.parametrize("wrap", [dict, BatchEncoding, UserDict])
def test_batch_in_one_dictionary(wrap):
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = BertConfig(vocab_size=99, hidden_size=E, num_hidden_layers=2, num_attention_heads=H, intermediate_size=48)
            self.body = BertModel(config, add_pooling_layer=False)

        def forward(self, batch):
            return self.body(**batch)[0]

    model, ids = Wrapper().eval(), torch.randint(0, 99, (B, T))
    cap = seen(model, wrap({"input_ids": ids, "attention_mask": REAL.long()}))
    assert torch.equal(cap.token_ids, ids)
    assert torch.equal(cap.query_mask, REAL)
    assert torch.equal(cap.diagonal.isnan(), ~REAL[None, :, None].expand(2, B, H, T))


def test_mask_of_the_source_is_not_the_decoders():
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(99, E)
            self.encoder, self.decoder = Padded(-1e9, False), Padded(-1e9, False, causal=True)

        def forward(self, input_ids, attention_mask, target):
            memory = self.encoder(self.embed(input_ids), attention_mask.sum(1))
            return self.decoder(self.embed(target), torch.full((B,), T)) + memory

    model, ids, target = Translator().eval(), torch.randint(0, 99, (B, T)), torch.randint(0, 99, (B, T))
    cap = seen(model, ids, REAL.long(), target)
    embedded = model.embed(target)
    expected = truth(heads(model.decoder.q(embedded)), heads(model.decoder.k(embedded)), torch.ones(B, T).bool(), causal=True)
    assert torch.equal(cap.records[0].diagonal.isnan(), ~REAL[:, None].expand(B, H, T))
    torch.testing.assert_close(cap.records[1].diagonal.double(), expected, rtol=0, atol=1e-5)


def test_square_mask_of_as_many_texts_as_tokens_is_no_padding():
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(E, E), nn.Linear(E, E)

        def forward(self, x, attention_mask):
            return (heads(self.q(x)) @ heads(self.k(x)).mT / math.sqrt(D)).masked_fill(attention_mask == 0, -torch.inf).softmax(-1) @ heads(
                x
            )

    model, x = Causal().eval(), torch.randn(T, T, E)
    cap = seen(model, x, torch.ones(T, T, dtype=torch.long).tril())
    expected = diagonal(weights(heads(model.q(x)), heads(model.k(x)), torch.full((T, T), -torch.inf).triu(1)))
    torch.testing.assert_close(cap.diagonal[0].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("first", [None, "ones"])
def test_buffers_reused_after_the_forward(implementation, first):
    """Also a first batch without a mask and a second with one."""
    config = BertConfig(vocab_size=99, hidden_size=E, num_hidden_layers=2, num_attention_heads=H, intermediate_size=48)
    model, ids, mask = BertModel(config, add_pooling_layer=False).eval(), torch.randint(0, 99, (B, T)), REAL.long().clone()
    model.set_attn_implementation(implementation)
    kept, plain = ids.clone(), None if first is None else torch.ones_like(ids)
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        model(ids, attention_mask=plain)
        model(ids, attention_mask=mask)
        ids.zero_()
        mask.fill_(1)
    assert torch.equal(cap.token_ids, kept)
    assert torch.equal(cap.query_mask, REAL)
    assert not cap.steps[0][0].diagonal.isnan().any()


GRAPH = torch.rand(T, T, generator=torch.Generator().manual_seed(3)) < 0.5
GRAPH[torch.arange(T), torch.arange(T)] = torch.arange(T) % 3 != 0  # every third node does not see itself
GRAPH[torch.arange(T), torch.arange(T).roll(1)] = True  # but each sees one, and is seen by one


class Sparse(nn.Module):
    """A mask that hides some tokens from themselves: a graph, or the largest scores of each row."""

    def __init__(self, fused: bool, top: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.fused, self.top = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E), fused, top

    def seen(self, scores):
        return scores >= scores.topk(2, -1)[0][..., -1:] if self.top else GRAPH

    def forward(self, x):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        scores = q @ k.mT / math.sqrt(D)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, self.seen(scores)).transpose(1, 2).flatten(2)
        return (scores.masked_fill(~self.seen(scores), -1e9).softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_token_hidden_from_itself_that_others_see_is_no_padding(fused, top):
    model, x = Sparse(fused, top).eval(), torch.randn(B, T, E)
    q, k = heads(model.q(x)), heads(model.k(x))
    hidden = torch.zeros(B, H, T, T, dtype=torch.float64).masked_fill(~model.seen(q @ k.mT / math.sqrt(D)), -torch.inf)
    expected = diagonal(weights(q, k, hidden))
    unseen = expected.isnan() if not top else diagonal(hidden).isinf().all(1, keepdim=True) & hidden.isinf().all(2).all(1, keepdim=True)
    for _ in range(2):
        cap = seen(model, x)
        wanted = torch.where(unseen, torch.nan, expected)
        torch.testing.assert_close(cap.diagonal[0].double(), wanted, rtol=0, atol=1e-5, equal_nan=True)
    assert (cap.diagonal == 0).any()


class Opened(nn.Module):
    """Each padded token is left its own key to look at, so that no row is empty; in some models its row is left all real keys, too."""

    def __init__(self, fused: bool, causal: bool, alone: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)
        self.fused, self.causal, self.alone = fused, causal, alone

    def sees(self, real):
        sees = real[:, None, None].expand(-1, 1, real.shape[1], -1)
        sees = sees & real[:, None, :, None] if self.alone else sees
        sees = sees & torch.ones(real.shape[1], real.shape[1]).tril().bool() if self.causal else sees
        return sees | torch.eye(real.shape[1]).bool()

    def forward(self, x, attention_mask):
        q, k, v, sees = heads(self.q(x)), heads(self.k(x)), heads(self.v(x)), self.sees(attention_mask.bool())
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, sees).transpose(1, 2).flatten(2)
        return ((q @ k.mT / math.sqrt(D)).masked_fill(~sees, -1e9).softmax(-1) @ v).transpose(1, 2).flatten(2)


class Unnamed(Opened):
    def forward(self, x, lengths):
        return super().forward(x, torch.arange(x.shape[1])[None] < lengths[:, None])


class UnnamedLeft(Opened):
    def forward(self, x, lengths):
        return super().forward(x, torch.arange(x.shape[1]).flip(0)[None] < lengths[:, None])


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [Opened, Unnamed, UnnamedLeft])
def test_padding_that_sees_itself(kind, fused, causal, alone):
    """Its weight on itself is no attention of a token, whether or not the model was told of the mask by name."""
    model, x = kind(fused, causal, alone).eval(), torch.randn(B, T, E)
    for lengths in (LENGTHS, torch.tensor([T, 6, 2]), torch.tensor([T, T, T])):
        real = torch.arange(T)[None] < lengths[:, None]
        real = real.flip(1) if kind is UnnamedLeft else real
        mask = torch.zeros(B, 1, T, T, dtype=torch.float64).masked_fill(~model.sees(real), -torch.inf)
        wanted = torch.where(real[:, None], diagonal(weights(heads(model.q(x)), heads(model.k(x)), mask)), torch.nan)
        for given in ("mask as numbers", "mask as bool") if kind is Opened else ("lengths",):
            cap = seen(model, x, {"mask as numbers": real.long(), "mask as bool": real, "lengths": lengths}[given])
            torch.testing.assert_close(cap.diagonal[0].double(), wanted, rtol=0, atol=1e-5, equal_nan=True)
            assert torch.equal(cap.query_mask, real)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "unseen",
    [
        pytest.param(lambda: torch.ones(T, T).tril().bool(), id="the last token of a causal text"),
        pytest.param(lambda: torch.ones(T, T).tril().bool() & (torch.arange(T) != T - 3) | torch.eye(T).bool(), id="one that only reads"),
        pytest.param(lambda: (torch.arange(T) < T - 2) | torch.eye(T).bool(), id="probes at the end that nobody sees"),
        pytest.param(lambda: torch.eye(T).bool(), id="every token alone"),
        pytest.param(
            lambda: torch.block_diag(torch.ones(3, 3), torch.ones(1, 1), torch.ones(4, 4)).bool(), id="a text of one token between others"
        ),
    ],
)
def test_tokens_that_nobody_sees_are_no_padding_where_the_structure_hides_them(unseen, fused):
    class Structured(Opened):
        def sees(self, real):
            return unseen().expand(B, 1, T, T).clone()

        def forward(self, x):
            return super().forward(x, torch.ones(B, T))

    model, x = Structured(fused, False, False).eval(), torch.randn(B, T, E)
    mask = torch.zeros(B, 1, T, T, dtype=torch.float64).masked_fill(~unseen(), -torch.inf)
    cap = seen(model, x)
    torch.testing.assert_close(cap.diagonal[0].double(), diagonal(weights(heads(model.q(x)), heads(model.k(x)), mask)), rtol=0, atol=1e-5)
    assert cap.query_mask.all()


@pytest.mark.parametrize("wraps", [False, True])
def test_a_mask_given_by_position_through_a_replaced_forward(wraps):
    """As accelerate, peft and many scripts replace it: ``(*args, **kwargs)`` names nothing."""
    model = BertModel(BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)).eval()
    plain = model.forward

    def replaced(*args, **kwargs):
        return plain(*args, **kwargs)

    model.forward = functools.wraps(plain)(replaced) if wraps else replaced
    ids = torch.randint(1, 50, (B, T))
    with torch.no_grad(), attviz.capture(model) as cap:
        model(ids, REAL.long())
    assert torch.equal(cap.records[0].query_mask, REAL)
    assert torch.equal(cap.records[0].token_ids, ids)
    assert torch.equal(cap.diagonal.isnan(), (~REAL)[None, :, None].expand_as(cap.diagonal))
