"""Sequences made of two: where the queries' own keys stand among those of another input, and padding in the middle."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attviz
from attviz import readings as r
from tests.evidence.judge import B, D, E, H, assert_right, diagonal, heads, seen, weights

LENGTHS = torch.tensor([5, 3, 2])


class Joined(nn.Module):
    """Tokens ask themselves and a memory, whose keys stand behind theirs or before them."""

    def __init__(self, fused: bool, own_first: bool) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(E, E), nn.Linear(E, E)
        self.fused, self.own_first = fused, own_first

    def keys(self, x, memory):
        return heads(self.k(torch.cat([x, memory] if self.own_first else [memory, x], 1)))

    def forward(self, x, memory):
        query, key = heads(self.q(x)), self.keys(x, memory)
        if self.fused:
            return F.scaled_dot_product_attention(query, key, key)
        return (query @ key.mT / math.sqrt(D)).softmax(-1) @ key


@pytest.mark.parametrize("own_first", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_memory_of_another_length_in_a_later_forward(fused, own_first):
    """What stands behind the own keys is as long as the memory of this forward, not of the first."""
    model = Joined(fused, own_first).eval()
    for length in (7, 12, 3):
        x, memory = torch.randn(B, 5, E), torch.randn(B, length, E)
        truth = diagonal(weights(heads(model.q(x)), model.keys(x, memory)), 0 if own_first else length)[..., :5]
        assert_right(seen(model, x, memory), truth)


class TextAndImage(nn.Module):
    """A padded text and an image in one sequence; the padding stands in its middle or at its end."""

    def __init__(self, hidden: float | None, text_first: bool) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(E, E), nn.Linear(E, E)
        self.hidden, self.text_first = hidden, text_first

    def joined(self, text, image):
        return torch.cat([text, image] if self.text_first else [image, text], 1)

    def real(self, text, image, lengths):
        words = torch.arange(text.shape[1])[None] < lengths[:, None]
        return self.joined(words, torch.ones(image.shape[:2], dtype=torch.bool))

    def forward(self, text, image, lengths):
        x, real = self.joined(text, image), self.real(text, image, lengths)
        query, key = heads(self.q(x)), heads(self.k(x))
        if self.hidden is None:
            return F.scaled_dot_product_attention(query, key, key, real[:, None, None])
        added = torch.zeros(real.shape).masked_fill(~real, self.hidden)[:, None, None]
        if self.hidden == -torch.inf:
            return F.scaled_dot_product_attention(query, key, key, added)
        return (query @ key.mT / math.sqrt(D) + added).softmax(-1) @ key


@pytest.mark.parametrize("text_first", [True, False])
@pytest.mark.parametrize("hidden", [None, -torch.inf, -1e9, torch.finfo(torch.float32).min])
def test_padding_inside_a_joined_sequence(hidden, text_first):
    model, text, image = TextAndImage(hidden, text_first).eval(), torch.randn(B, 5, E), torch.randn(B, 4, E)
    real, x = model.real(text, image, LENGTHS), model.joined(text, image)
    mask = torch.zeros(real.shape, dtype=torch.float64).masked_fill(~real, -torch.inf)[:, None, None]
    truth = diagonal(weights(heads(model.q(x)), heads(model.k(x)), mask))
    cap = seen(model, text, image, LENGTHS)
    assert_right(cap, torch.where(real[:, None], truth, torch.nan))
    assert torch.equal(cap.query_mask, real)


class Blocks(nn.Module):
    """Local attention in blocks, heads before blocks: its diagonal is read at once, before the mask would be."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(E, E), nn.Linear(E, E)
        self.fused = fused

    def forward(self, x, lengths):
        query, key = (heads(part(x)).unflatten(2, (-1, 4)) for part in (self.q, self.k))  # [batch, heads, blocks, 4, head_dim]
        real = (torch.arange(x.shape[1])[None] < lengths[:, None]).unflatten(1, (-1, 4))[:, None, :, None]
        if self.fused:
            flat = (part.flatten(0, 1) for part in (query, key, key))
            return F.scaled_dot_product_attention(*flat, real.expand(-1, H, -1, -1, -1).flatten(0, 1))
        return (query @ key.mT / math.sqrt(D)).masked_fill(~real, -1e9).softmax(-1) @ key


@pytest.mark.parametrize("fused", [True, False])
def test_padding_in_blocks(fused):
    """The last block of the shortest text is all padding."""
    model, x, lengths = Blocks(fused).eval(), torch.randn(B, 8, E), torch.tensor([8, 6, 3])
    real = (torch.arange(8)[None] < lengths[:, None]).unflatten(1, (2, 4)).flatten(0, 1)
    query, key = (heads(part(x)).unflatten(2, (2, 4)).transpose(1, 2).flatten(0, 1) for part in (model.q, model.k))
    mask = torch.zeros(real.shape, dtype=torch.float64).masked_fill(~real, -1e300)[:, None, None]
    truth = torch.where(real[:, None], diagonal(weights(query, key, mask)), torch.nan)
    cap = seen(model, x, lengths)
    assert_right(cap, truth)
    assert torch.equal(cap.query_mask, real)


class TurnedInPlace(nn.Module):
    """Positions are written into the image's part of query and key, the text's is left as it is."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.q, self.k, self.norm = nn.Linear(E, E), nn.Linear(E, E), nn.LayerNorm(D)
        self.fused = fused

    def turned(self, part, joined, words):
        states = self.norm(heads(part(joined))).clone()
        states[:, :, words:] = states[:, :, words:] * 2.0 + states[:, :, words:].roll(1, -1)
        return states

    def forward(self, text, image):
        joined = torch.cat([text, image], 1)
        query, key = (self.turned(part, joined, text.shape[1]) for part in (self.q, self.k))
        if self.fused:
            return F.scaled_dot_product_attention(query, key, key)
        return (query @ key.mT / math.sqrt(D)).softmax(-1) @ key


@pytest.mark.parametrize("fused", [True, False])
def test_positions_written_into_a_part_of_the_tokens(fused):
    """As CogView4 does: what is written are the same tokens, so query and key are those of one sequence."""
    model, text, image = TurnedInPlace(fused).eval(), torch.randn(B, 5, E), torch.randn(B, 4, E)
    joined = torch.cat([text, image], 1)
    with torch.no_grad():
        truth = diagonal(weights(model.turned(model.q, joined, 5), model.turned(model.k, joined, 5)))
    assert_right(seen(model, text, image), truth)


class Drafted(nn.Module):
    """A draft model: its tokens see a context and each other, under one mask of all keys, or one of the own tokens."""

    def __init__(self, fused: bool, own_first: bool = False) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(E, E), nn.Linear(E, E)
        self.fused, self.own_first = fused, own_first

    def keys(self, x, context):
        return heads(self.k(torch.cat([x, context] if self.own_first else [context, x], 1)))

    def forward(self, x, context, attention_mask=None, allowed=None):
        query, key = heads(self.q(x)), self.keys(x, context)
        given = attention_mask if allowed is None else allowed
        others = (0, key.shape[2] - given.shape[1]) if self.own_first else (key.shape[2] - given.shape[1], 0)
        seen = F.pad(given.bool(), others, value=True)[:, None, None]
        if self.fused:
            return F.scaled_dot_product_attention(query, key, key, seen)
        return (query @ key.mT / math.sqrt(D)).masked_fill(~seen, torch.finfo(torch.float32).min).softmax(-1) @ key


def assert_readings_of_keys(cap, matrix, shown, real_keys):
    """``Received`` is no number at padding keys, and the first key is none of them."""
    received = torch.where(real_keys[:, None], (matrix * shown[..., None]).sum(2), torch.nan)
    first = torch.where(shown, matrix[torch.arange(B), :, :, real_keys.int().argmax(1)], torch.nan)
    for name, want in {"received": received, "keys(first=1)": first}.items():
        torch.testing.assert_close(cap.records[0].readings[name].double(), want, rtol=0, atol=1e-5, equal_nan=True)


def matrix_of(model, x, context, real_keys):
    hidden = torch.zeros(real_keys.shape, dtype=torch.float64).masked_fill(~real_keys, -torch.inf)[:, None, None]
    with torch.no_grad():
        return weights(heads(model.q(x)), model.keys(x, context), hidden)


@pytest.mark.parametrize("fused", [True, False])
def test_received_of_a_padded_context_before_padded_tokens(fused):
    """A key that is padding has received nothing, which is no number: in the context as among the own tokens."""
    model, x, context = Drafted(fused).eval(), torch.randn(B, 6, E), torch.randn(B, 5, E)
    places = torch.arange(11)[None]
    real = (places >= torch.tensor([[0], [2], [0]])) & (places < torch.tensor([[11], [11], [9]]))
    with torch.no_grad(), attviz.capture(model, read=[r.Received(), r.Keys(first=1)]) as cap:
        model(x, context, attention_mask=real.long())
    matrix, shown = matrix_of(model, x, context, real), real[:, None, 5:]
    assert_right(cap, torch.where(shown, diagonal(matrix, 5), torch.nan))
    assert_readings_of_keys(cap, matrix, shown, real)


@pytest.mark.parametrize("named", ["attention_mask", "allowed"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("own_first", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_received_of_padded_tokens_beside_others(fused, own_first, side, named):
    """The mask is one of the own tokens alone, whether the model's argument or only the operator's says so."""
    model, x, context = Drafted(fused, own_first).eval(), torch.randn(B, 6, E), torch.randn(B, 5, E)
    real = torch.arange(6)[None] < torch.tensor([[6], [4], [5]])
    real = real.flip(1) if side == "left" else real
    with torch.no_grad(), attviz.capture(model, read=[r.Received(), r.Keys(first=1)]) as cap:
        model(x, context, **{named: real.long()})
    real_keys = F.pad(real, (0, 5) if own_first else (5, 0), value=True)
    matrix, shown = matrix_of(model, x, context, real_keys), real[:, None]
    assert_right(cap, torch.where(shown, diagonal(matrix, 0 if own_first else 5)[..., :6], torch.nan))
    assert_readings_of_keys(cap, matrix, shown, real_keys)
