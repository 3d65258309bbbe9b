"""Keys beside the queries' own: of another input, in a cache, in a buffer, wherever they stand and however many they are next time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attviz
from tests.evidence.judge import B, D, E, H, T, assert_right, diagonal, heads, seen, weights

CAUSAL = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)


class Attention(nn.Module):
    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.q, self.k, self.v, self.fused = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E), fused

    def core(self, q, k, v, visible=None):
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, visible).transpose(1, 2).flatten(2)
        scores = q @ k.mT * D**-0.5
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Beside(Attention):
    """Own tokens between others; either may be missing."""

    def keys(self, before, x, behind):
        return torch.cat([part for part in (before, x, behind) if part is not None], 1)

    def forward(self, x, before=None, behind=None):
        keys = self.keys(before, x, behind)
        return self.core(heads(self.q(x)), heads(self.k(keys)), heads(self.v(keys)))

    def truth(self, x, before, behind):
        start = 0 if before is None else before.shape[1]
        return diagonal(weights(heads(self.q(x)), heads(self.k(self.keys(before, x, behind)))), start)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("lengths", [[(0, 5), (0, 9)], [(0, 1), (0, 5)], [(3, 2), (6, 7)], [(4, 0), (1, 0)], [(T, T), (1, 1)]])
def test_other_inputs_beside_the_own_tokens_may_change_their_lengths(lengths, fused):
    model = Beside(fused).eval()
    for before, behind in lengths:
        x, *others = torch.randn(B, T, E), *(torch.randn(B, n, E) if n else None for n in (before, behind))
        assert_right(seen(model, x, *others), model.truth(x, *others))


# ---- caches


class Language(Attention):
    """Generates, with its cache handed in and out, or kept in itself."""

    def __init__(self, fused: bool, kept: bool) -> None:
        super().__init__(fused)
        self.embed, self.head, self.kept, self.cache = nn.Embedding(50, E), nn.Linear(E, 50), kept, None

    def forward(self, ids, cache=None):
        x = self.embed(ids)
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        cache = self.cache if self.kept else cache
        if cache is not None:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        self.cache = (k, v) if self.kept else None
        visible = torch.ones(q.shape[2], k.shape[2]).tril(k.shape[2] - q.shape[2]).bool()
        return self.head(self.core(q, k, v, visible)), (k, v)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("batch", "prompt"), [(1, 1), (2, 1), (2, 3), (H, H)])
def test_generation_with_a_cache_of_ones_own(batch, prompt, kept, fused):
    """Also from a single first token, of which nothing can be learned."""
    model, ids, cache = Language(fused, kept).eval(), torch.randint(0, 50, (batch, prompt)), None
    new = ids
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        for _ in range(4):
            logits, cache = model(new, cache)
            new = logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, new], 1)
        x = model.embed(ids[:, :-1])
    length = x.shape[1]
    expected = diagonal(weights(heads(model.q(x)), heads(model.k(x)), torch.full((length, length), -torch.inf).triu(1)))
    assert [len(step) for step in cap.steps] == [1] * 4
    found = torch.cat([step[0].diagonal for step in cap.steps], -1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


class Buffered(Attention):
    """A buffer of fixed length, larger in the batch too, written in one of the ways that models have."""

    def __init__(self, fused: bool, how: str, slots: int = 12) -> None:
        super().__init__(fused)
        self.how, self.slots = how, slots
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(B + 2, H, slots, D), persistent=False)

    def write(self, buffer, new, place):
        batch = len(new)
        if self.how == "slice":
            buffer[:batch, :, place[0] : place[-1] + 1] = new
        elif self.how == "index":
            buffer[:batch][:, :, place] = new
        else:
            buffer[:batch].index_copy_(2, place, new)

    def forward(self, x, start):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        batch, end = len(x), start + x.shape[1]
        place = torch.arange(start, end) % self.slots
        self.write(self.keys, k, place)
        self.write(self.values, v, place)
        held = min(end, self.slots)
        visible = torch.arange(held)[None] <= torch.arange(start, end)[:, None]
        return self.core(q, self.keys[:batch, :, :held], self.values[:batch, :, :held], visible)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("how", ["slice", "index", "copy"])
@pytest.mark.parametrize("first", [5, 1])
def test_buffers_however_they_are_written(first, how, fused):
    """Meta's Llama, gpt-fast, index_copy; also where the buffer has more texts than the batch."""
    model, x = Buffered(fused, how).eval(), torch.randn(B, T, E)
    expected = diagonal(weights(heads(model.q(x)), heads(model.k(x)), CAUSAL))
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        model(x[:, :first], 0)
        for place in range(first, T):
            model(x[:, place : place + 1], place)
    found = torch.cat([step[0].diagonal for step in cap.steps], -1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["slice", "index", "copy"])
def test_ring_buffers(how):
    """The own key is where it was written, not at the end."""
    model, x = Buffered(True, how, slots=5).eval(), torch.randn(B, T, E)
    query, key = heads(model.q(x)), heads(model.k(x))
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        model(x[:, :3], 0)
        for place in range(3, T):
            model(x[:, place : place + 1], place)
    for place, step in enumerate(cap.steps[1:], start=3):
        held = key[:, :, max(0, place - 4) : place + 1]
        expected = weights(query[:, :, place : place + 1], held)[..., -1]
        torch.testing.assert_close(step[0].diagonal.double(), expected, rtol=0, atol=1e-5)


class Head(Attention):
    """Without a name that says attention."""

    def forward(self, x):
        return self.core(heads(self.q(x)), heads(self.k(x)), heads(self.v(x)))


@pytest.mark.parametrize("fused", [True, False])
def test_a_single_first_token_is_recorded(fused):
    """Of one query and one key only their origin shows what they are."""
    model = Head(fused).eval()
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        model(torch.randn(1, 1, E))
        model(x := torch.randn(1, 3, E))
    assert torch.equal(cap.steps[0][0].diagonal, torch.ones(1, H, 1))
    assert_right(cap, diagonal(weights(heads(model.q(x)), heads(model.k(x)))))


class Behind(Attention):
    """Each token sees those before it, and a learned key that stands in front of all."""

    def __init__(self, fused: bool) -> None:
        super().__init__(fused)
        self.null = nn.Parameter(torch.randn(1, H, 1, D))

    def forward(self, x):
        k, v = (torch.cat([self.null.expand(len(x), -1, -1, -1), heads(f(x))], 2) for f in (self.k, self.v))
        return self.core(heads(self.q(x)), k, v, torch.ones(T, T + 1).tril().bool())


@pytest.mark.parametrize("fused", [True, False])
def test_a_token_that_sees_only_what_is_before_it_has_no_weight_on_itself(fused):
    """The last key that it sees is another's."""
    model = Behind(fused).eval()
    for _ in range(2):  # followed, then by what was shown
        assert_right(seen(model, torch.randn(B, T, E)), torch.zeros(B, H, T, dtype=torch.float64))


class Newest(Attention):
    """The newest keys stand first: what is kept stands behind them."""

    def __init__(self, fused: bool) -> None:
        super().__init__(fused)
        self.kept = None

    def forward(self, x):
        q, new = heads(self.q(x)), (heads(self.k(x)), heads(self.v(x)))
        k, v = new if self.kept is None else (torch.cat(pair, 2) for pair in zip(new, self.kept, strict=True))
        self.kept = k, v
        own, past = torch.ones(x.shape[1], x.shape[1]).tril().bool(), torch.ones(x.shape[1], k.shape[2] - x.shape[1]).bool()
        return self.core(q, k, v, torch.cat([own, past], 1))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("seen_before", "first"), [(0, 4), (0, 1), (4, 1)])
def test_a_cache_that_puts_the_newest_keys_first(seen_before, first, fused):
    """A single token is looked at again: its keys are others than those of a text, in an order that nothing else shows."""
    model, x = Newest(fused).eval(), torch.randn(B, T, E)
    expected = diagonal(weights(heads(model.q(x)), heads(model.k(x)), CAUSAL))[..., seen_before:]
    with torch.no_grad():
        if seen_before:
            model(x[:, :seen_before])
        with attviz.capture(model, keep="all") as cap:
            for start, end in [(seen_before, seen_before + first), *((place, place + 1) for place in range(seen_before + first, T))]:
                model(x[:, start:end])
    found = torch.cat([step[0].diagonal for step in cap.steps], -1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


class Slots(Attention):
    """Keys written into slots that are known by number only: one-hot sums, pages."""

    def __init__(self, fused: bool, how: str) -> None:
        super().__init__(fused)
        self.how, self.used = how, 0
        self.held = [torch.zeros(B, H, 12, D) for _ in range(2)]
        self.pages = torch.zeros(2, 3, 4, B, H, D)

    def stored(self, parts, start, end):
        if self.how == "one-hot":
            place = F.one_hot(torch.arange(start, end), 12).float()
            self.held = [
                old * (1 - place.sum(0))[:, None] + torch.einsum("nt,bhnd->bhtd", place, new)
                for old, new in zip(self.held, parts, strict=True)
            ]
            return self.held
        table = torch.tensor([2, 0, 1])
        for which, new in enumerate(parts):
            for place in range(start, end):
                self.pages[which, table[place // 4], place % 4] = new[:, :, place - start]
        return [pages[table].flatten(0, 1)[:end].permute(1, 2, 0, 3) for pages in self.pages]

    def forward(self, x):
        start, self.used = self.used, self.used + x.shape[1]
        k, v = self.stored((heads(self.k(x)), heads(self.v(x))), start, self.used)
        return self.core(heads(self.q(x)), k, v, torch.arange(k.shape[2])[None] <= torch.arange(start, self.used)[:, None])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("how", ["one-hot", "pages"])
def test_slots_that_tokens_were_written_into_are_no_features(how, fused):
    """Where the own key stands could not be followed; that is said, also beside a layer that is read."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.slots = Head(fused), Slots(fused, how)

        def forward(self, x):
            return self.slots(self.head(x))

    for length in (4, 1):
        with pytest.raises(attviz.errors.CaptureError, match="'slots': "), torch.no_grad(), attviz.capture(model := Beside().eval()):
            model(torch.randn(B, length, E))
            model(torch.randn(B, 1, E))


def test_naming_a_module_whose_slots_could_not_be_followed_reads_the_last_visible_one():
    """The cure that the message names."""
    model, x = nn.Sequential(Slots(True, "pages")).eval(), torch.randn(B, T, E)
    expected = diagonal(weights(heads(model[0].q(x)), heads(model[0].k(x)), CAUSAL))
    with torch.no_grad(), attviz.capture(model, keep="all", layers="0") as cap:
        model(x[:, :4])
        for place in range(4, T):
            model(x[:, place : place + 1])
    found = torch.cat([step[0].diagonal for step in cap.steps], -1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
