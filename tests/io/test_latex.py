"""LaTeX: every special escaped, nothing that TeX would read in its own way."""

import doctest
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, ShapeError
from attviz.io import escape_latex, latex, to_latex

COMMAND = re.compile(r"\\(text[a-z]+\{\}|[{}$&#%_])|\$\\[a-z]+\$|\{[-,!?]\}")


def test_doctests():
    assert doctest.testmod(latex).failed == 0


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_what_is_left_beside_our_commands_has_no_meaning_to_tex(text):
    plain = COMMAND.sub("", escape_latex(text))
    assert not set(plain) & set("\\{}$&#%_^~<>|\"'`-,!?")
    assert all(char.isascii() or "\u00c0" <= char <= "\u00ff" for char in plain)
    assert plain.isprintable()


def test_unicode_is_named_or_kept():
    assert escape_latex("日é") == "U+65E5é"
    assert escape_latex("日é", "keep") == "日é"


def test_grounds_are_shares_of_the_largest_and_words_are_joined():
    source = to_latex(["play", "##ing", "it"], np.array([0.2, 0.1, np.nan]))
    assert re.findall(r"attviz!(\d+)!white", source) == ["100", "50", "0"]
    assert "\\strut play}%\n\\colorbox{attviz!50!white}{\\strut ing} %\n" in source
    assert source.count("{") == source.count("}")


def test_a_fixed_scale_makes_texts_comparable():
    assert re.findall(r"attviz!(\d+)!white", to_latex(["a", "b"], np.array([0.2, 2.0]), vmax=1.0)) == ["20", "100"]


def test_a_standalone_document_begins_and_ends():
    source = to_latex(["a"], np.zeros(1), standalone=True)
    assert source.startswith("\\documentclass")
    assert source.endswith("\\end{document}\n")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"values": np.zeros(2)}, ShapeError, r"got shape \[2\] for 1 tokens"),
        ({"color": "red"}, ArgumentError, "six hexadecimal digits such as 'ffc629', got 'red'"),
        ({"unicode": "drop"}, ArgumentError, "'names', 'keep'; got 'drop'"),
        ({"vmax": 0.0}, ArgumentError, "vmax must be finite and above 0"),
    ],
)
def test_bad_input_is_named(options, error, message):
    with pytest.raises(error, match=message):
        to_latex(["a"], **({"values": np.zeros(1)} | options))
