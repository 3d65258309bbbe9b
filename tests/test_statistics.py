"""The NumPy aggregates, against slow loops in float64."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError
from attviz.statistics import AGGREGATES, aggregate_row


def slow(values: list[float], kind: str) -> float:
    """One token, one value at a time."""
    values = [value for value in values if not math.isnan(value)]
    mean = sum(values) / len(values) if values else math.nan
    logs = [value * math.log(value) if value > 0 else 0.0 for value in values]
    bins = [math.floor(100 * value) for value in values]
    shares = [bins.count(step) / len(bins) for step in set(bins)]
    total = sum(values)
    results = {
        "mean": lambda: mean,
        "std": lambda: math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan,
        "max": lambda: max(values),
        "min": lambda: min(values),
        "range": lambda: max(values) - min(values),
        "entropy": lambda: -sum(logs) / len(set(values)),
        "binned entropy": lambda: -sum(p * math.log(p) for p in shares) / len(shares),
        "shannon entropy": lambda: -sum(v / total * math.log(v / total) for v in values if v > 0) if total > 0 else 0.0,
    }
    return results[kind]() if values else math.nan


PROBABILITY = st.one_of(st.sampled_from([0.0, 0.29, 0.5, 1.0, math.nan]), st.floats(0, 1).map(lambda value: round(value, 6)))


@pytest.mark.parametrize("kind", AGGREGATES)
@given(columns=st.integers(1, 5).flatmap(lambda h: st.lists(st.lists(PROBABILITY, min_size=h, max_size=h), min_size=1, max_size=4)))
@settings(max_examples=60, deadline=None)
def test_aggregate_row_agrees_with_a_loop(kind, columns):
    row = aggregate_row(np.array(columns).T, kind)
    np.testing.assert_allclose(row, [slow(column, kind) for column in columns], rtol=1e-9, atol=1e-12)


def test_entropies_have_the_values_of_the_definition():
    column = np.full((2, 1), 0.29)
    assert aggregate_row(column, "binned entropy")[0] == 0.0  # one bin
    twelve = np.arange(12)[:, None] / 100 + 0.005
    assert aggregate_row(twelve, "binned entropy")[0] == pytest.approx(0.207, abs=5e-4)


def test_an_unknown_aggregate_is_named_with_the_choices():
    with pytest.raises(ArgumentError, match=r"aggregate must be one of 'mean', .*'shannon entropy'; got 'median'"):
        aggregate_row(np.ones((1, 1)), "median")
