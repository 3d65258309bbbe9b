"""Keys in another order than the queries, or of other texts: loud, whatever moved them. What moves nothing, or both alike, is read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attviz
from attviz.errors import CaptureError
from tests.evidence.judge import B, D, E, H, T, assert_right, assert_skipped, diagonal, heads, is_loud, seen, weights


def eager(q, k, v):
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


CORES = {"fused": F.scaled_dot_product_attention, "eager": eager}


class Keyed(nn.Module):
    """Does something to its queries and to its keys before they meet."""

    def __init__(self, core, keys, queries=lambda q: q) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)
        self.core, self.keys, self.queries = CORES[core], keys, queries

    def qkv(self, x):
        return self.queries(heads(self.q(x))), self.keys(heads(self.k(x))), self.keys(heads(self.v(x)))

    def forward(self, x):
        return self.core(*self.qkv(x)).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(weights(*self.qkv(x)[:2]))


def placed(key):
    buffer = torch.zeros_like(key)
    buffer[:, :, torch.arange(T).flip(0)] = key
    return buffer


ORDER = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
MOVED = {
    "index_select": lambda k: k.index_select(2, ORDER),
    "index": lambda k: k[:, :, ORDER],
    "list": lambda k: k[:, :, [4, 3, 2, 1, 0, 7, 6, 5]],
    "several indices": lambda k: k[torch.arange(B)[:, None, None], torch.arange(H)[None, :, None], ORDER[None, None]],
    "gather": lambda k: k.gather(2, k[..., :1].argsort(2).expand_as(k)),
    "take_along_dim": lambda k: torch.take_along_dim(k, k[..., :1].argsort(2), 2),
    "sort": lambda k: k.sort(2)[0],
    "topk": lambda k: k.topk(T, 2)[0],
    "scatter": lambda k: torch.zeros_like(k).scatter(2, k.argsort(2), k),
    "index_copy": lambda k: torch.zeros_like(k).index_copy(2, ORDER, k),
    "index_put": placed,
    "flip": lambda k: k.flip(2),
    "roll": lambda k: k.roll(1, 2),
    "halves swapped": lambda k: torch.cat([k[:, :, 4:], k[:, :, :4]], 2),
    "stacked backwards": lambda k: torch.stack(k.unbind(2)[::-1], 2),
    "interleaved": lambda k: k.unflatten(2, (2, 4)).transpose(2, 3).flatten(2, 3),
    "shifted": lambda k: F.pad(k, (0, 0, 1, -1)),
    "as_strided": lambda k: k.contiguous().as_strided(k.shape, (H * T * D, T * D, 0, 1)),
    "next text": lambda k: k.roll(1, 0),
    "another text": lambda k: k[[1, 2, 0]],
    "first text": lambda k: k[:1].expand_as(k),
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("how", MOVED)
def test_keys_that_were_moved_are_loud(how, core):
    model, x = Keyed(core, MOVED[how]).eval(), torch.randn(B, T, E)
    for _ in range(2):  # followed, then by what was shown
        assert "could not be identified" in is_loud(model, x)


@pytest.mark.parametrize("layers", ["0", "*", 0])
def test_naming_a_module_does_not_make_moved_keys_right(layers):
    model = nn.Sequential(type("Attention", (Keyed,), {})("fused", MOVED["index"])).eval()
    with pytest.raises(CaptureError, match="in a different order"), torch.no_grad(), attviz.capture(model, layers=layers):
        model(torch.randn(B, T, E))


APART = {
    "sorted by themselves": (lambda q: q.sort(2)[0], lambda k: k.sort(2)[0]),
    "by two hashes": (lambda q: q.gather(2, q.argsort(2)), lambda k: k.gather(2, k.argsort(2))),
    "by two orders": (lambda q: q[:, :, ORDER], lambda k: k[:, :, ORDER.flip(0)]),
    "chosen queries, chosen keys": (lambda q: q.topk(4, 2)[0], lambda k: k.topk(4, 2)[0]),
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("how", APART)
def test_queries_and_keys_that_were_moved_apart_are_loud(how, core):
    queries, keys = APART[how]
    assert "in a different order" in is_loud(Keyed(core, keys, queries).eval(), torch.randn(B, T, E))


IN_PLACE = {
    "all by index": lambda k: k[:, :, torch.arange(T)],
    "stacked again": lambda k: torch.stack([k[:, :, place] for place in range(T)], 2),
    "slices stacked again": lambda k: torch.stack([k[:, :, place : place + 1][:, :, 0] for place in range(T)], 2),
    "put together again": lambda k: torch.cat([k[:, :, :3], k[:, :, 3:]], 2),
    "rotated as complex numbers": lambda k: torch.view_as_real(torch.view_as_complex(k.unflatten(-1, (-1, 2))) * 1j).flatten(-2),
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("how", IN_PLACE)
def test_keys_that_are_in_their_places_again_are_read(how, core):
    model, x = Keyed(core, IN_PLACE[how], IN_PLACE[how] if "rotated" in how else lambda q: q).eval(), torch.randn(B, T, E)
    assert_right(seen(model, x), model.truth(x))


@pytest.mark.parametrize("core", CORES)
def test_queries_and_keys_moved_alike_are_read(core):
    """Their own key is at their own place, wherever in the text that is."""
    model, x = Keyed(core, lambda k: k[:, :, ORDER], lambda q: q[:, :, ORDER]).eval(), torch.randn(B, T, E)
    assert_right(seen(model, x), model.truth(x))


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("how", [lambda x: x[:, ORDER], lambda x: x.flip(1), lambda x: x[[1, 2, 0]], lambda x: F.pad(x, (0, 0, 1, -1))])
def test_a_moved_copy_of_the_queries_as_keys(how, batch_first, core):
    """Of ``nn.MultiheadAttention`` and of a module that takes a context: neither self-attention nor another sequence."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(E, H, batch_first=batch_first)

        def forward(self, x):
            x, y = (x, how(x)) if batch_first else (x.transpose(0, 1), how(x).transpose(0, 1))
            return self.attn(x, y, y, need_weights=core == "eager")[0]

    assert "could not be identified" in is_loud(Around().eval(), torch.randn(B, T, E))


def test_a_flag_that_changes_the_order_is_followed_again():
    class Flagged(Keyed):
        def forward(self, x, backwards=False):
            q, k, v = self.qkv(x)
            return self.core(q, *((k.flip(2), v.flip(2)) if backwards else (k, v)))

    model, x = Flagged("fused", lambda k: k).eval(), torch.randn(B, T, E)
    assert_right(seen(model, x), model.truth(x))
    assert "in a different order" in is_loud(model, x, backwards=True)
    assert "in a different order" in is_loud(model, x, True)
    assert_right(seen(model, x), model.truth(x))


@pytest.mark.parametrize("how", [lambda x: x.flip(1), lambda x: x[:, ORDER]])
def test_a_text_that_is_read_in_another_order_carries_no_token_ids(how):
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attention = nn.Embedding(50, E), Keyed("fused", lambda k: k)

        def forward(self, input_ids):
            return self.attention(how(self.embed(input_ids)))

    model, ids = Backwards().eval(), torch.randint(0, 50, (B, T))
    cap = seen(model, ids)
    assert_right(cap, model.attention.truth(how(model.embed(ids))))
    assert cap.records[0].token_ids is None
    assert "a different order than in the input" in cap.records[0].evidence


# ---- one by one


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("visible", [lambda t, place: t, lambda t, place: t[:, :, : place + 1]])
@pytest.mark.parametrize("take", [lambda q, place: q[:, :, place : place + 1], lambda q, place: q[:, :, place][:, :, None]])
def test_queries_taken_one_by_one_are_loud(take, visible, core):
    class QueryByQuery(Keyed):
        def forward(self, x):
            q, k, v = self.qkv(x)
            return torch.cat([self.core(take(q, place), visible(k, place), visible(v, place)) for place in range(T)], 2)

    assert "one at a time" in is_loud(QueryByQuery(core, lambda k: k).eval(), torch.randn(B, T, E))


def test_one_query_taken_out_of_the_tokens_is_skipped():
    class Last(Keyed):
        def forward(self, x):
            q, k, v = self.qkv(x)
            return self.core(q[:, :, -1:], k, v)

    assert_skipped(seen(Last("fused", lambda k: k).eval(), torch.randn(B, T, E)), "")


@pytest.mark.parametrize("core", CORES)
def test_heads_one_by_one_are_records_of_their_own_where_the_module_is_named(core):
    """The cure that the error names."""

    class OneByOne(Keyed):
        def forward(self, x):
            return torch.cat([self.core(*(part[:, head] for part in self.qkv(x))) for head in range(H)], -1)

    model, x = nn.Sequential(OneByOne(core, lambda k: k)).eval(), torch.randn(B, T, E)
    assert "Name it in layers=" in is_loud(model, x)
    cap = seen(model, x, layers="0")
    assert_right(cap, *model[0].truth(x).split(1, 1))
