"""Rows of aggregates."""

import numpy as np
import pytest

from attviz.errors import ArgumentError
from attviz.plots import aggregates
from attviz.statistics import aggregate_row


def test_each_row_has_its_aggregate_as_bars_scaled_to_its_largest():
    values = np.random.default_rng(0).random((2, 3, 4))
    ax = aggregates(values, tokens=list("abcd"), kinds=("mean", "std"))
    for container, kind, base in zip(ax.containers, ("mean", "std"), (1, 0), strict=True):
        row = aggregate_row(values.reshape(6, 4), kind)
        np.testing.assert_allclose([bar.get_height() for bar in container], 0.84 * row / row.max())
        assert {bar.get_y() for bar in container} == {base}
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["mean", "std"]


def test_one_vector_has_no_std_and_zeros_have_no_bars():
    ax = aggregates(np.zeros((1, 3)), kinds=("std", "mean"))
    assert all(bar.get_height() == 0 for container in ax.containers for bar in container)


def test_unknown_and_absent_aggregates_are_named():
    with pytest.raises(ArgumentError, match=r"plots.aggregates: aggregate must be one of .* got 'median'"):
        aggregates(np.ones((1, 2)), kinds=["median"])
    with pytest.raises(ArgumentError, match="at least one aggregate"):
        aggregates(np.ones((1, 2)), kinds=[])
