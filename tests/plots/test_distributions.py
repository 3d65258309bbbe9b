"""Densities and quantile plots."""

import numpy as np
import pytest
import torch

from attviz.errors import ArgumentError
from attviz.plots import distributions, quantiles


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_density_per_set_that_integrates_to_one():
    values = np.random.default_rng(0).lognormal(-4, 1, 500)
    ax = distributions({"mean": values, "max": values * 3})
    assert labels(ax) == ["mean", "max"]
    grid, density = ax.lines[0].get_data()
    assert torch.trapezoid(torch.from_numpy(density), torch.from_numpy(np.log10(grid))) == pytest.approx(
        1, abs=0.02
    )  # the trapezoid, and tails beyond the grid


def test_what_lies_below_the_floor_is_said():
    ax = distributions({"min": np.array([0.0, 0.1, 0.2, 0.3])}, floor=1e-4)
    assert labels(ax) == ["min (25.0% below 1e-04)"]


def test_a_set_of_one_value_is_a_line():
    assert "mean (all 0.5)" in labels(distributions({"mean": np.full(9, 0.5)}, log=False))


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({}, {}, "at least one named array"),
        ({"a": np.array([np.nan])}, {}, "'a' holds no value"),
        ({"a": np.ones(2)}, {"floor": 0.0}, "above 0"),
    ],
)
def test_bad_input_is_named(values, options, message):
    with pytest.raises(ArgumentError, match=message):
        distributions(values, **options)


def test_normal_values_lie_on_the_line():
    values = np.exp(np.random.default_rng(0).normal(size=20_000))
    expected, seen = quantiles({"a": values}).lines[0].get_data()
    inner = np.abs(expected) < 2
    np.testing.assert_allclose(seen[inner], expected[inner], atol=0.06)  # four deviations of a quantile at |z| = 2 of 20 000 values


def test_quantiles_need_two_values():
    with pytest.raises(ArgumentError, match="'a' needs at least two different values above 0, has 1"):
        quantiles({"a": np.array([0.0, 0.5])})
    with pytest.raises(ArgumentError, match="at least one named array"):
        quantiles({})
