"""The series view: what is drawn is what the values say."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from attviz.errors import ArgumentError, ShapeError
from attviz.plots import series


def collection(ax, label):
    return next(drawn for drawn in ax.collections if drawn.get_label() == label)


def test_line_extremes_and_others():
    values = np.array([[0.5, 0.1], [0.25, 0.2], [0.75, 0.6]])
    ax = series(values, tokens=["a", "##b"])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.5, 0.3])
    extremes = {tuple(point) for point in collection(ax, "max and min").get_offsets().tolist()}
    assert extremes == {(0.0, 0.25), (0.0, 0.75), (1.0, 0.1), (1.0, 0.6)}
    assert collection(ax, "other vectors").get_offsets().tolist() == [[0.0, 0.5], [1.0, 0.2]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "…b"]
    assert "probability" in ax.get_ylabel()
    assert ax.get_yscale() == "log"


def test_zero_is_drawn_at_the_stated_floor():
    ax = series(np.array([[0.0, 0.5], [0.4, 0.6]]), floor=1e-3)
    assert collection(ax, "below 1e-3").get_offsets().tolist() == [[0.0, 1e-3]]
    assert ax.get_ylim()[0] == 1e-3


def test_all_zero_and_all_missing_do_not_break_the_logarithmic_axis():
    for values in (np.zeros((2, 3)), np.full((2, 3), np.nan)):
        ax = series(values)
        ax.figure.canvas.draw()
        assert ax.get_ylim()[0] > 0


def test_linear_axis_begins_at_zero():
    ax = series(np.array([[0.2, 0.4]]), log=False, aggregate="max")
    assert ax.get_yscale() == "linear"
    assert ax.get_ylim()[0] == 0
    assert ax.lines[0].get_label() == "max"


def test_layers_and_heads_are_vectors_alike():
    values = np.random.default_rng(0).random((2, 3, 4))
    np.testing.assert_array_equal(series(values).lines[0].get_ydata(), series(values.reshape(6, 4)).lines[0].get_ydata())


def test_missing_tokens_are_a_gap():
    ax = series(np.array([[0.1, np.nan, 0.3], [0.1, np.nan, 0.2]]))
    assert np.isnan(ax.lines[0].get_ydata()).tolist() == [False, True, False]


def test_own_aggregate_and_keywords_reach_the_line():
    ax = series(np.array([[0.1, 0.2]]), aggregate=[0.3, 0.4], color="#123456", label="lift")
    assert ax.lines[0].get_ydata().tolist() == [0.3, 0.4]
    assert (ax.lines[0].get_color(), ax.lines[0].get_label()) == ("#123456", "lift")


def test_draws_on_the_axes_given_and_shows_nothing():
    ax = plt.subplots()[1]
    figures = plt.get_fignums()
    assert series(np.array([[0.5]]), ax=ax) is ax
    assert plt.get_fignums() == figures


def test_many_tokens_are_numbered():
    ax = series(np.full((2, 300), 0.1), tokens=["a"] * 300)
    assert ax.get_xlabel() == "token index"


@pytest.mark.filterwarnings("ignore::attviz.plots._fonts.MissingFontWarning")  # of a machine without Chinese fonts
def test_hostile_tokens_are_drawn_without_a_warning():
    tokens = ["$x$", "\\frac", "_", "\u202e", "日本", "🙂", "\U000f0000", "", "a" * 300]
    series(np.full((2, len(tokens)), 0.1), tokens=tokens).figure.canvas.draw()


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [
        (np.ones((2, 3)), {"tokens": ["a"]}, ShapeError, "1 tokens and a diagonal of num_tokens=3"),
        (np.ones((0, 3)), {}, ShapeError, r"got shape \[0, 3\]"),
        (np.full((1, 2), 1.5), {}, ArgumentError, "values from 1.5 to 1.5"),
        (np.ones((1, 2)), {"aggregate": [1.0]}, ShapeError, r"got shape \[1\] for num_tokens=2"),
        (np.ones((1, 2)), {"aggregate": "median"}, ArgumentError, "plots.series: aggregate must be one of 'mean'"),
        (np.ones((1, 2)), {"floor": 0.0}, ArgumentError, "floor must be above 0"),
    ],
)
def test_bad_input_is_named(values, options, error, message):
    with pytest.raises(error, match=message):
        series(values, **options)
