"""What disturbed tokens show of inputs that are not simply ``[batch, tokens, features]``."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attviz
from attviz import Capture
from attviz.checking.disturb import findings_of

BATCH, HEADS, WIDTH = 2, 4, 32


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, asks, answers):
        query, key = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q(asks), self.k(answers)))
        return F.scaled_dot_product_attention(query, key, key).transpose(1, 2).flatten(2)


class OfAnImage(nn.Module):
    """Channels first, as convolutions have them."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.out = nn.Conv2d(WIDTH, 2 * WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, image):
        query, key = (part.flatten(2).unflatten(1, (HEADS, -1)).mT for part in self.qk(image).chunk(2, 1))
        mixed = F.scaled_dot_product_attention(query, key, key)
        return self.out(mixed.mT.flatten(1, 2).unflatten(2, image.shape[2:]))


@pytest.mark.parametrize("size", [(4, 4), (5, 7)])
def test_pixels_are_tokens_where_channels_come_first(size):
    check = attviz.check(nn.Sequential(OfAnImage(), OfAnImage()), torch.randn(BATCH, WIDTH, *size))
    assert check.ok, check


class Resampler(nn.Module):
    """Learned latents ask the features and themselves: they are handed over as queries, and among the keys."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.latents, self.attend, self.first = nn.Parameter(torch.randn(3, WIDTH)), Attention(), first

    def forward(self, features):
        latents = self.latents.expand(len(features), -1, -1)
        return self.attend(latents, torch.cat([latents, features] if self.first else [features, latents], 1))


@pytest.mark.parametrize("first", [True, False])
def test_tokens_that_are_handed_over_twice_are_disturbed_twice(first):
    check = attviz.check(Resampler(first), torch.randn(BATCH, 7, WIDTH))
    assert check.ok, check
    assert check.layers[0].shape == (BATCH, HEADS, 3)


class ClassAttention(nn.Module):
    """Only the class token asks."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.attend, self.pool = nn.Parameter(torch.randn(1, 1, WIDTH)), Attention(), OnlyTheFirst()

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.pool(x + self.attend(x, x))


class OnlyTheFirst(Attention):
    def forward(self, x):
        return super().forward(x[:, :1], x)


def test_the_key_that_is_left_is_the_one_querys_own():
    check = attviz.check(ClassAttention(), torch.randn(BATCH, 9, WIDTH))
    assert check.ok, check
    assert "every other token moves the key at its own place" in check.layers[1].evidence


def test_another_key_of_one_query_differs(monkeypatch):
    right = Capture.records.fget
    assert right is not None

    def moved(cap):
        return tuple(dataclasses.replace(record, diagonal=record.diagonal * 0.5) for record in right(cap))

    monkeypatch.setattr(Capture, "records", property(moved))
    check = attviz.check(ClassAttention(), torch.randn(BATCH, 9, WIDTH))
    assert [row.status for row in check.layers] == ["differs", "differs"], check


class OneProbe(nn.Module):
    """A learned query, not among the keys: no key is left over."""

    def __init__(self) -> None:
        super().__init__()
        self.probe, self.attend = nn.Parameter(torch.randn(1, 1, WIDTH)), Attention()

    def forward(self, x):
        return self.attend(self.probe.expand(len(x), -1, -1), x)


def test_a_learned_query_is_verified_to_have_no_own_key():
    check = attviz.check(OneProbe(), torch.randn(BATCH, 9, WIDTH))
    assert check.ok, check
    assert check.layers[0].shape is None


class PooledQueries(Attention):
    """As Hiera: each query is the largest of tokens that stand a fourth of the text apart."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x):
        asks = x.unflatten(1, (self.stride, -1)).amax(1)
        return super().forward(asks, x)


@pytest.mark.parametrize("stride", [2, 4])
def test_pooled_queries_are_verified_to_have_no_own_key(stride):
    check = attviz.check(nn.Sequential(PooledQueries(stride)), torch.randn(BATCH, 32, WIDTH))
    assert check.ok, check
    assert check.layers[0].shape is None


class WithPosteriors(nn.Module):
    """As speech models feed the posteriors of a middle layer back: a softmax over a vocabulary, between two attentions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out, self.back = Attention(), Attention(), nn.Linear(WIDTH, 99), nn.Linear(99, WIDTH)

    def forward(self, x):
        x = x + self.first(x, x)
        x = x + self.back(self.out(x).softmax(-1))
        return x + self.second(x, x)


def test_a_softmax_of_the_model_around_is_no_partner_of_a_layers_record():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = WithPosteriors()

        def forward(self, x):
            return self.encoder(x)

    check = attviz.check(Whole(), torch.randn(BATCH, 9, WIDTH))
    assert check.ok, check
    assert [row.layer for row in check.layers] == ["encoder.first", "encoder.second"]


class OfAPair(nn.Module):
    """Images in pairs, ``[batch, 2, channels, height, width]``, that ask each other."""

    def __init__(self, across: bool) -> None:
        super().__init__()
        self.attention, self.across = Attention(), across

    def forward(self, images):
        one, two = (image.flatten(2).mT for image in images.unbind(1))
        return self.attention(one, two if self.across else one), self.attention(two, one if self.across else two)


@pytest.mark.parametrize("across", [True, False])
def test_a_pair_in_one_tensor_is_not_moved_as_one(across):
    model, images = OfAPair(across).eval(), torch.randn(BATCH, 2, WIDTH, 4, 4)
    with torch.no_grad():
        findings = findings_of(model, "", model, (images,), {})
    assert len(findings) == 2
    for finding in findings:
        assert (finding.verdict in ("rows", "keys", "apart")) if across else finding.verdict == "self", finding.verdict
