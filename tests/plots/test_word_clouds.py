"""Clouds of tokens."""

import numpy as np
import pytest

from attviz.errors import ArgumentError
from attviz.plots import word_clouds

WORDS = {"the": 5.0, "bank": 3.0, "$x$": 2.0, "日本": 1.0}


def pixels(ax):
    return np.asarray(ax.images[0].get_array())


def test_one_cloud_per_head_the_same_every_time():
    grid = word_clouds([WORDS, {"a": 1.0}], names=["layer 0 head 0", "layer 0 head 1"], width=120, height=80)
    again = word_clouds([WORDS, {"a": 1.0}], width=120, height=80)
    assert [ax.get_title() for ax in grid] == ["layer 0 head 0", "layer 0 head 1"]
    np.testing.assert_array_equal(pixels(grid[0]), pixels(again[0]))
    assert (pixels(grid[0]) != pixels(grid[1])).any()


def test_stop_words_are_drawn():
    assert (pixels(word_clouds([{"the": 1.0}], width=120, height=80)[0]) != 255).any()


def test_a_head_without_weights_says_so():
    assert word_clouds([{"a": 0.0}])[0].texts[0].get_text() == "no token has any weight"


@pytest.mark.parametrize(
    ("frequencies", "options", "message"),
    [
        ([], {}, "at least one head"),
        ([WORDS], {"names": ["a", "b"]}, "names must be one per head, got 2 for 1"),
        ([{"a": float("nan")}], {}, "head 0 has nan for 'a'"),
        ([WORDS, {"a": -1.0}], {}, "head 1 has -1.0 for 'a'"),
    ],
)
def test_bad_input_is_named(frequencies, options, message):
    with pytest.raises(ArgumentError, match=message):
        word_clouds(frequencies, **options)
