"""Bars of the tokens with the largest means."""

import numpy as np
import pytest

from attviz.errors import ArgumentError, ShapeError
from attviz.plots import token_bars


def names(ax):
    return [tick.get_text() for tick in ax.get_yticklabels()]


def test_largest_first_with_counts_and_min_count():
    mean = np.array([0.1, 0.9, 0.5, np.nan])
    ax = token_bars(mean, tokens=["a", "rare", "##c", "never"], count=np.array([5, 1, 7, 0]), min_count=2)
    assert names(ax) == ["…c  (7)", "a  (5)"]
    assert [bar.get_width() for bar in ax.containers[0]] == [0.5, 0.1]


def test_std_stays_within_probabilities_and_maximum_lies_behind():
    ax = token_bars(np.array([0.9, 0.05]), tokens=["a", "b"], std=np.array([0.3, 0.2]), maximum=np.array([1.0, 0.6]))
    lines = ax.containers[-1].lines[2][0].get_segments()
    np.testing.assert_allclose([[segment[0][0], segment[1][0]] for segment in lines], [[0.6, 1.0], [0.0, 0.25]], atol=1e-12)
    assert ax.containers[0].patches[0].get_alpha() == 0.3


def test_k_bars_at_most_and_ties_by_index():
    assert names(token_bars(np.full(50, 0.2), tokens=[str(n) for n in range(50)], k=3)) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"std": np.zeros(1)}, ShapeError, r"std must hold one value per token, got shape \[1\] for 2 tokens"),
        ({"min_count": 2}, ArgumentError, "min_count=2 needs count="),
        ({"min_count": 9, "count": np.array([1, 4])}, ArgumentError, "no token is left with min_count=9; the most frequent occurs 4 times"),
        ({"k": 0}, ArgumentError, "k must be at least 1"),
    ],
)
def test_bad_input_is_named(options, error, message):
    with pytest.raises(error, match=message):
        token_bars(np.array([0.1, 0.2]), tokens=["a", "b"], **options)
