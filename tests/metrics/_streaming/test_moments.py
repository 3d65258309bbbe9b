"""Samples pool exactly: any cut, any order, against two passes in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.metrics._streaming.moments import Cells, Moments

VALUES = st.lists(st.one_of(st.sampled_from([0.0, 1.0, 1e-4, 1e-4 + 1e-7]), st.floats(0, 1, width=32)), min_size=1, max_size=40)


def sample(values):
    column = torch.tensor(values, dtype=torch.float64)
    return Moments.of(column, torch.ones(len(values), dtype=torch.bool), (0,))


def assert_equal_to_two_passes(pooled, values):
    exact = np.array(values, dtype=np.float64)
    assert pooled.count.item() == len(exact)
    assert pooled.max.item() == exact.max()
    assert pooled.min.item() == exact.min()
    assert pooled.mean.item() == pytest.approx(math.fsum(values) / len(values), rel=1e-12, abs=1e-300)
    if len(exact) > 1:
        assert pooled.std().item() == pytest.approx(exact.std(ddof=1), rel=1e-9, abs=1e-15)


@given(values=VALUES, cuts=st.lists(st.integers(0, 40), max_size=6), order=st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_cut_and_any_order_of_pooling_gives_the_sample(values, cuts, order):
    edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    parts = [sample(values[a:b]) for a, b in itertools.pairwise(edges)] + [Moments.empty(Cells(()))]
    order.shuffle(parts)
    while len(parts) > 1:
        parts.append(parts.pop() + parts.pop(order.randrange(len(parts))))
    assert_equal_to_two_passes(parts[0], values)


def test_an_empty_sample_changes_nothing_to_the_last_bit():
    some = sample([0.1, 0.7, 1e-30])
    empty = Moments.of(torch.full((3,), torch.nan), torch.zeros(3, dtype=torch.bool), (0,))
    for pooled in (some + empty, empty + some, some + Moments.empty(Cells(()))):
        for name in ("count", "mean", "m2", "max", "min"):
            assert getattr(pooled, name).item() == getattr(some, name).item(), name


def test_small_deviations_of_float32_values_survive_a_long_stream():
    values = (1e-4 + 1e-7 * torch.randn(200, 5000)).float()
    pooled = Moments.empty(Cells(()))
    for chunk in values:
        pooled = pooled + Moments.of(chunk, torch.ones(5000, dtype=torch.bool), (0,))
    assert_equal_to_two_passes(pooled, values.double().flatten().tolist())


def test_counts_beyond_what_float32_can_count_stay_exact():
    big = Moments(*(torch.tensor(value, dtype=torch.float64) for value in (2.0**24, 0.5, 0.0, 0.5, 0.5)))
    pooled = big
    for _ in range(3):
        pooled = pooled + sample([0.5])
    assert pooled.count.item() == 2**24 + 3
    assert pooled.m2.item() == 0


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_masked_reduction_over_axes_agrees_with_numpy(batch, heads, length, random):
    torch.manual_seed(random.randrange(10**6))
    values, valid = torch.rand(batch, heads, length), torch.rand(batch, heads, length) < 0.7
    values[~valid] = torch.nan
    found = Moments.of(values, valid, (0, 2))
    for head in range(heads):
        kept = values[:, head][valid[:, head]].double().tolist()
        one = Moments(*(getattr(found, name)[head] for name in ("count", "mean", "m2", "max", "min")))
        if kept:
            assert_equal_to_two_passes(one, kept)
        else:
            assert (one.count.item(), one.mean.item(), one.m2.item()) == (0, 0, 0)
            assert (one.max.item(), one.min.item()) == (-math.inf, math.inf)


def test_no_values_at_all_is_an_empty_sample():
    found = Moments.of(torch.empty(0, 3, 7), torch.empty(0, 3, 7, dtype=torch.bool), (0, 2))
    assert found.count.tolist() == [0, 0, 0]
    assert found.std().isnan().all()
