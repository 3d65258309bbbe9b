"""Subword marks, byte alphabets and invisible characters, against the tokenizers' own spelling."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz import spelling
from attviz.spelling import display_width, readable_labels, readable_pieces, shorten, visible


def test_doctests():
    assert doctest.testmod(spelling).failed == 0


@pytest.mark.parametrize(
    ("tokens", "labels"),
    [
        (["[CLS]", "play", "##ing", "[SEP]"], ["[CLS]", "play", "…ing", "[SEP]"]),
        (["<s>", "Hello", "Ġworld", "ing", "Ċ", "Ġ", "</s>"], ["<s>", "Hello", "world", "…ing", "↵", "␣", "</s>"]),
        (["æĹ¥", "æľ¬"], ["æĹ¥", "æľ¬"]),  # no mark: nothing says that these are bytes
        (["Ġa", "æĹ¥"], ["a", "…日"]),
        (["Ġa", "Ġâ"], ["a", "⟨E2⟩"]),  # a part of a character
        (["▁The", "▁", "se", "<0x0A>", "</s>"], ["The", "␣", "se", "↵", "</s>"]),
        (["hel", "lo</w>", "wor", "ld</w>"], ["hel", "…lo", "wor", "…ld"]),
        (["##"], ["##"]),
        (["", "\t"], ["∅", "⇥"]),
        ([], []),
    ],
    ids=["wordpiece", "byte-level", "unmarked", "bytes", "part", "sentencepiece", "clip", "hashes", "empty", "none"],
)
def test_labels_are_spelled_for_a_reader(tokens, labels):
    assert readable_labels(tokens) == labels


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_byte_level_spelling_is_undone(word):
    spelled = "".join({byte: char for char, byte in spelling._BYTE_OF.items()}[byte] for byte in word.encode())
    assert readable_labels(["Ġa", f"Ġ{spelled}x"])[1] == visible(f"{word}x")


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_visible_leaves_nothing_invisible(text):
    shown = visible(text)
    assert shown.strip()
    assert all(char.isprintable() for char in shown)


@given(st.text(max_size=60), st.integers(3, 30))
@settings(max_examples=200, deadline=None)
def test_shorten_keeps_to_its_columns(text, columns):
    short = shorten(text, columns)
    assert display_width(short) <= columns
    assert short == text or "…" in short


def test_pieces_say_which_continue():
    assert [piece.continues for piece in readable_pieces(["un", "##like", "##ly", "so"])] == [False, True, True, False]
