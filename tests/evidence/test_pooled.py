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
