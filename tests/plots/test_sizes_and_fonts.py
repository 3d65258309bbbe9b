"""Figures stay of a size one can look at, and say which font is missing where a character cannot be drawn."""

import warnings
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import font_manager

from attviz.plots import _fonts, head_map, sequence, series
from attviz.spelling import readable_labels


@pytest.fixture(autouse=True)
def fresh_fonts():
    for cached in (_fonts._family_with, _fonts._installed, _fonts._warn_of):
        cached.cache_clear()
    yield
    plt.close("all")
    for cached in (_fonts._family_with, _fonts._installed, _fonts._warn_of):
        cached.cache_clear()


@pytest.mark.parametrize(("num_vectors", "num_tokens"), [(24, 512), (144, 512), (1024, 64), (8, 2000)])
def test_a_sequence_fits_a_screen_or_two(num_vectors, num_tokens):
    values = np.random.default_rng(0).random((num_vectors, num_tokens))
    ax = sequence(values, tokens=[f"token{i}" for i in range(num_tokens)], max_tokens=num_tokens)
    width, height = ax.figure.get_size_inches()
    assert height <= 21
    assert width <= 16
    if num_vectors > 8:
        assert any("more tokens are not drawn" in text.get_text() for text in ax.texts)


@pytest.mark.parametrize("shape", [(32, 32), (1, 1024), (128, 8)])
def test_labels_of_a_thousand_heads_keep_apart(shape):
    ax = head_map(np.random.default_rng(0).random(shape))
    ax.figure.canvas.draw()
    for axis in (ax.xaxis, ax.yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    assert max(ax.figure.get_size_inches()) <= 13


def test_a_script_that_a_font_has_is_drawn_without_boxes():
    fonts = {font.name for font in font_manager.fontManager.ttflist}
    assert "Noto Sans Devanagari" in fonts, "apt-get install fonts-noto-core"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ax = series(np.full((2, 3), 0.3), tokens=["नमस्ते", "مرحبا", "привет"])
        assert "□" not in "".join(tick.get_text() for tick in ax.get_xticklabels())
        ax.figure.canvas.draw()


def test_a_font_that_is_missing_is_named_once(monkeypatch):
    monkeypatch.setattr(_fonts, "_installed", lambda: ())
    with pytest.warns(_fonts.MissingFontWarning, match=r"no installed font has Chinese, Japanese or Korean.*CJK.*fonts-noto-cjk"):
        assert _fonts.drawable("注意") == "□□"
    assert _fonts.drawable("注意力") == "□□□"  # a second warning would be an error here


def test_the_font_of_last_resort_draws_nothing_and_is_never_taken():
    assert not any("LastResort" in path for _, path in _fonts._installed())


def test_joiners_stay_where_they_join():
    assert readable_labels(["\U0001f469\u200d\U0001f680", "क्\u200dष", "a\u200db"]) == [
        "\U0001f469\u200d\U0001f680",
        "क्\u200dष",
        "a⟨U+200D⟩b",
    ]
