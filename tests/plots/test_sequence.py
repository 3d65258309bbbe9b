"""The sequence view: where the tokens stand, and how strong their strokes are."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, ShapeError
from attviz.plots import sequence
from attviz.plots._sequence import _layout


def strokes(ax):
    return ax.collections[0]


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_one_stroke_per_vector_and_token_with_its_strength():
    values = np.array([[1.0, 0.5], [0.0, 0.25]])
    ax = sequence(values, tokens=["ab", "cd"], scale="probability")
    assert len(strokes(ax).get_segments()) == 4
    np.testing.assert_allclose(strokes(ax).get_colors()[:, 3], 0.1 + 0.9 * np.array([1.0, 0.0, 0.5, 0.25]))
    assert words(ax)[:2] == ["ab", "cd"]
    assert "full colour: probability 1" in words(ax)


def test_vector_scale_makes_each_maximum_opaque():
    ax = sequence(np.array([[0.1, 0.2], [0.001, 0.002]]), tokens=["a", "b"], scale="vector")
    np.testing.assert_allclose(strokes(ax).get_colors()[:, 3], [0.55, 0.55, 1.0, 1.0])


def test_missing_values_have_no_stroke():
    ax = sequence(np.array([[0.5, np.nan]]), tokens=["a", "[PAD]"])
    assert len(strokes(ax).get_segments()) == 1


def test_tint_colours_the_text_behind():
    ax = sequence(np.array([[0.4, 0.8]]), tokens=["a", "b"], tint=0)
    assert [patch.get_alpha() for patch in ax.patches] == [0.5, 1.0]
    assert len(sequence(np.array([[0.4, 0.8]]), tokens=["a", "b"], tint=[0.0, 2.0]).patches) == 1


def test_vectors_of_layers_are_named():
    assert "L1 H2" in words(sequence(np.full((4, 3, 1), 0.1), tokens=["a"]))
    assert "layer 11" in words(sequence(np.full((12, 12, 1), 0.1), tokens=["a"]))
    assert "noun head" in words(sequence(np.full((1, 1), 0.1), tokens=["a"], names=["noun head"]))


def test_the_rest_of_a_long_text_is_counted():
    ax = sequence(np.full((1, 30), 0.1), tokens=["a"] * 30, max_tokens=12)
    assert any("18 more tokens are not drawn" in text for text in words(ax))
    assert len(strokes(ax).get_segments()) == 12


@pytest.mark.filterwarnings("ignore::attviz.plots._fonts.MissingFontWarning")  # of any script hypothesis thinks of
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=60), st.integers(8, 80))
@example(["\x1f\U000119d4"], 8)  # a combining mark no font has: its box takes a column
@settings(max_examples=60, deadline=None)
def test_layout_keeps_order_and_margin(tokens, columns):
    cells = _layout(tokens, columns)
    assert len(cells) == len(tokens)
    assert all(cell.column + cell.width <= columns for cell in cells)
    for before, after in itertools.pairwise(cells):
        assert (after.line, after.column) >= (before.line, before.column + before.width) or after.line == before.line + 1


def test_inside_of_a_word_is_joined():
    first, inside, other = _layout(["play", "##ing", "it"], 40)
    assert inside.column == first.column + first.width
    assert other.column == inside.column + inside.width + 1


@pytest.mark.filterwarnings("ignore::attviz.plots._fonts.MissingFontWarning")  # of a machine without Chinese fonts
def test_hostile_tokens_are_drawn_without_a_warning():
    tokens = ["$x$", "\\frac", "日本", "🙂", "\U000f0000", "", "\n", "a" * 300, "##b"]
    sequence(np.full((2, len(tokens)), 0.1), tokens=tokens, columns=20).figure.canvas.draw()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tokens": ["a"]}, ShapeError, "got 1 tokens and a diagonal of num_tokens=2"),
        ({"names": ["x"]}, ShapeError, "got 1 names for num_vectors=2"),
        ({"colors": ["red"]}, ShapeError, "got 1 colors for num_vectors=2"),
        ({"tint": 2}, ArgumentError, "from 0 to 1, got 2"),
        ({"tint": [0.1]}, ShapeError, r"shape \[1\] for num_tokens=2"),
        ({"scale": "raw"}, ArgumentError, "'shared', 'vector', 'probability'; got 'raw'"),
        ({"columns": 3}, ArgumentError, "columns must be at least 8, got 3"),
    ],
)
def test_bad_input_is_named(options, error, message):
    with pytest.raises(error, match=message):
        sequence(np.full((2, 2), 0.1), **({"tokens": ["a", "b"]} | options))
