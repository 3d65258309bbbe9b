"""Queries or keys that each stand for several tokens have no key of their own: skipped, with the side that was pooled."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.evidence.judge import B, D, E, assert_skipped, heads, is_loud, seen

LENGTH = 12


def _largest(x):
    """As Hiera pools its queries: the largest of four that stand one behind the other."""
    return x.unflatten(2, (4, -1)).amax(2)


def _mean(x):
    return x.unflatten(2, (-1, 4)).mean(3)


def _pool(x):
    return F.avg_pool1d(x.transpose(2, 3).flatten(0, 1), 4).unflatten(0, x.shape[:2]).transpose(2, 3)


def _all_but_the_first(x):
    """As MViT pools: the class token stays."""
    return torch.cat([x[:, :, :1], _pool(x[:, :, 1:])], 2)


def _first_and_some(x):
    return torch.cat([x[:, :, :1], x[:, :, torch.tensor([5, 3, 7])]], 2)


def _first_third(x):
    return x.unflatten(2, (3, -1))[:, :, 0]


class Pooling(nn.Module):
    def __init__(self, fused: bool, queries, keys=None) -> None:
        super().__init__()
        self.q, self.k, self.fused, self.queries, self.keys = nn.Linear(E, E), nn.Linear(E, E), fused, queries, keys

    def forward(self, x):
        query, key = heads(self.q(x)), heads(self.k(x))
        query, key = self.queries(query) if self.queries else query, self.keys(key) if self.keys else key
        if self.fused:
            return F.scaled_dot_product_attention(query, key, key)
        return (query @ key.mT / math.sqrt(D)).softmax(-1) @ key


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("pool", [_largest, _mean, _pool])
@pytest.mark.parametrize("side", ["queries", "keys"])
def test_what_stands_for_several_tokens_has_no_key_of_its_own(side, pool, fused):
    model = Pooling(fused, **{"queries": None, side: pool}).eval()
    cap = seen(nn.Sequential(model), torch.randn(B, LENGTH, E))
    assert_skipped(cap, "0")
    assert f"the {side} are pooled" in cap.skipped["0"]


class WithAClassToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 1, E))

    def forward(self, x):
        return torch.cat([self.first.expand(len(x), -1, -1), x], 1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("side", ["queries", "keys"])
def test_a_class_token_beside_what_was_pooled_changes_nothing(side, fused):
    x = torch.randn(B, LENGTH, E)
    model = nn.Sequential(WithAClassToken(), Pooling(fused, **{"queries": None, side: _all_but_the_first})).eval()
    cap = seen(model, x)
    assert_skipped(cap, "1")
    assert f"the {side} are pooled" in cap.skipped["1"]
    assert "'1'" in is_loud(nn.Sequential(WithAClassToken(), Pooling(fused, None, _first_and_some)).eval(), x)


@pytest.mark.parametrize("before", [nn.Identity(), nn.Hardswish(), nn.PReLU(), nn.LogSigmoid(), nn.Mish()])
@pytest.mark.parametrize("fused", [True, False])
def test_a_part_of_the_queries_is_not_pooled(before, fused):
    """The first third of the tokens asks: each has a key of its own, and the capture says that it could not find it."""
    assert "only some of them" in is_loud(nn.Sequential(before, Pooling(fused, _first_third)).eval(), torch.randn(B, LENGTH, E))


class Aggregated(nn.Module):
    """As EfficientLoFTR: queries are convolved patches of an image, keys the largest values of patches."""

    def __init__(self, fused: bool, queries: nn.Module, keys: nn.Module) -> None:
        super().__init__()
        self.q, self.k, self.fused, self.queries, self.keys = nn.Linear(E, E), nn.Linear(E, E), fused, queries, keys

    def forward(self, image, other=None):
        query, key = self.queries(image).flatten(2).mT, self.keys(image if other is None else other).flatten(2).mT
        query, key = heads(self.q(query)), heads(self.k(key))
        if self.fused:
            return F.scaled_dot_product_attention(query, key, key)
        return (query @ key.mT / math.sqrt(D)).softmax(-1) @ key


def _patches(stride=2, kernel=2, **options):
    return nn.Conv2d(E, E, kernel, stride, groups=E, **options)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("keys", [nn.MaxPool2d(2), nn.AvgPool2d(2, 2), _patches()])
def test_patches_made_in_two_ways_are_the_same_tokens(keys, fused):
    model, image = Aggregated(fused, _patches(), keys).eval(), torch.randn(B, E, 8, 6)
    cap = seen(model, image)
    with torch.no_grad():
        query, key = (heads(linear(made(image).flatten(2).mT)) for made, linear in ((model.queries, model.q), (keys, model.k)))
    expected = (query.double() @ key.double().mT / math.sqrt(D)).softmax(-1).diagonal(0, -2, -1)
    torch.testing.assert_close(cap.diagonal[0].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        (_patches(2, 3, padding=1), nn.MaxPool2d(2)),  # windows that overlap
        (_patches(2, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)),  # the same windows, which overlap
        (_patches(), nn.Sequential(nn.ConstantPad2d((0, 0, -1, 1), 0.0), nn.MaxPool2d(2))),  # moved by one
    ],
)
def test_patches_that_overlap_or_lie_elsewhere_are_loud(queries, keys, fused):
    assert is_loud(Aggregated(fused, queries, keys).eval(), torch.randn(B, E, 8, 6))


@pytest.mark.parametrize("fused", [True, False])
def test_patches_of_another_image_are_no_tokens_of_this_one(fused):
    model, images = Aggregated(fused, _patches(), nn.MaxPool2d(2)).eval(), torch.randn(2, B, E, 8, 6)
    assert_skipped(seen(model, images[0], images[1]), "")
