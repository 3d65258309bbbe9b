"""One query over many keys: its own key is one of them only if the query is that token."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.evidence.judge import B, D, E, T, assert_right, diagonal, heads, seen, weights


class Attention(nn.Module):
    """Queries of one sequence, keys of another or of the same."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.q, self.k, self.fused = nn.Linear(E, E), nn.Linear(E, E), fused

    def forward(self, asks, answers):
        query, key = heads(self.q(asks)), heads(self.k(answers))
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, key)
        else:
            mixed = (query @ key.mT / math.sqrt(D)).softmax(-1) @ key
        return mixed.transpose(1, 2).flatten(2)

    def truth(self, asks, answers):
        return diagonal(weights(heads(self.q(asks)), heads(self.k(answers))))


def _sliced(x):
    return x[:, :1]


def _selected(x):
    return x[:, 0].unsqueeze(1)


def _split(x):
    return x.split([1, x.shape[1] - 1], 1)[0]


def _split_and_reshaped(x):
    return x.split([1, x.shape[1] - 1], 1)[0].flatten(1).unsqueeze(1)


class ClassToken(nn.Module):
    """A learned token in front of the patches; its last attention is of one query: of that token, or of another learned one."""

    def __init__(self, fused: bool, take) -> None:
        super().__init__()
        self.token, self.other = nn.Parameter(torch.randn(1, 1, E)), nn.Parameter(torch.randn(1, 1, E))
        self.block, self.pool, self.take = Attention(fused), Attention(fused), take

    def tokens(self, x):
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1)

    def forward(self, x):
        x = self.tokens(x)
        x = x + self.block(x, x)
        return self.pool(self.other.expand(len(x), -1, -1) if self.take is None else self.take(x), x)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("take", [_sliced, _selected, _split, _split_and_reshaped])
def test_the_class_token_asks_and_is_among_the_keys(take, fused):
    """CaiT and XCiT: only the class token asks, and its own key is the first."""
    model, x = ClassToken(fused, take).eval(), torch.randn(B, T, E)
    tokens = model.tokens(x)
    after = tokens + model.block(tokens, tokens)
    assert_right(seen(model, x), model.block.truth(tokens, tokens), model.pool.truth(take(after), after)[..., :1])


@pytest.mark.parametrize("fused", [True, False])
def test_a_learned_query_is_not_the_learned_token_among_the_keys(fused):
    """The attention pool of Perception Encoder: a probe asks, a class token and the patches answer."""
    model, x = ClassToken(fused, None).eval(), torch.randn(B, T, E)
    tokens = model.tokens(x)
    cap = seen(model, x)
    assert_right(cap, model.block.truth(tokens, tokens))
    assert "the query is learned" in cap.skipped["pool"]


class Handed(nn.Module):
    """As CaiT's first class attention: the class token is handed over beside the patches."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.token, self.shift, self.attend = nn.Parameter(torch.randn(1, 1, E)), nn.Parameter(torch.randn(1, 1, E)), Attention(fused)

    def forward(self, x):
        token = (self.token + self.shift).expand(len(x), -1, -1)
        return self.attend(token, torch.cat([token, x], 1))


@pytest.mark.parametrize("fused", [True, False])
def test_a_learned_query_that_is_the_learned_token_among_the_keys(fused):
    model, x = Handed(fused).eval(), torch.randn(B, T, E)
    token = (model.token + model.shift).expand(B, -1, -1)
    assert_right(seen(model, x), model.attend.truth(token, torch.cat([token, x], 1))[..., :1])


class Captioning(nn.Module):
    """The first word asks an image whose class token was put in front of its patches."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.token, self.own, self.cross = nn.Parameter(torch.randn(1, 1, E)), Attention(fused), Attention(fused)

    def forward(self, words, patches):
        words = words + self.own(words, words)
        return self.cross(words, torch.cat([self.token.expand(len(words), -1, -1), patches], 1))


@pytest.mark.parametrize("fused", [True, False])
def test_the_first_word_is_not_the_class_token_of_the_image(fused):
    model = Captioning(fused).eval()
    with torch.no_grad():
        cap = seen_without_complaint(model, torch.randn(B, 1, E), torch.randn(B, T, E))
    assert "cross" not in cap.layers
    assert {*cap.skipped, *cap.missed} == {"cross"}


def seen_without_complaint(model, *args):
    """A capture that warns where it cannot tell."""
    import warnings

    import attviz

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with attviz.capture(model, strict=False) as cap:
            model(*args)
    return cap


@pytest.mark.parametrize("fused", [True, False])
def test_a_learned_key_behind_a_memory_is_not_the_words_own(fused):
    """``add_bias_kv`` where a single word asks a memory."""
    attention = nn.MultiheadAttention(E, 4, batch_first=True, add_bias_kv=True).eval()
    word, memory = torch.randn(B, 1, E), torch.randn(B, T, E)
    with torch.no_grad():
        cap = seen_without_complaint(attention, word, memory, memory)
    assert not cap.layers
