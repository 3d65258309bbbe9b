import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, FormatError, ShapeError, UnknownLayerError
from attviz.records import Document
from attviz.viewer.grid import choose_grid, grid_entry, grid_values, is_causal, utf16_offsets

NAMES = ("block.0.attn", "block.1.attn", "block.2.attn")


def document(values, tokens=None, **more):
    values = np.asarray(values, np.float32)
    return Document("text", tuple(tokens or [f"t{i}" for i in range(values.shape[-1])]), values, **more)


@pytest.mark.parametrize(
    ("layers", "heads", "expected"),
    [
        (None, None, ((0, 1, 2), (0, 1))),
        ([1], [-1], ((1,), (1,))),
        (["block.2.attn", "*.0.*"], None, ((2, 0), (0, 1))),
        ([-1, 2], [0, 0], ((2,), (0,))),
    ],
)
def test_choose_grid_takes_indices_names_and_patterns(layers, heads, expected):
    grid = choose_grid(NAMES, 2, layers, heads)
    assert (grid.layers, grid.heads) == expected


def test_choose_grid_names_what_is_missing():
    with pytest.raises(UnknownLayerError, match=r"layers='nope' matches none of the 3 layers: block.0.attn"):
        choose_grid(NAMES, 2, ["nope"], None)
    with pytest.raises(ArgumentError, match=r"heads contains 5, but the model has heads 0 to 1"):
        choose_grid(NAMES, 2, None, [5])
    with pytest.raises(ArgumentError, match=r"nothing to show: 0 layers"):
        choose_grid(NAMES, 2, [], None)


def test_grid_values_refuses_what_is_no_diagonal_of_the_document():
    grid = choose_grid(NAMES, 2, None, None)
    with pytest.raises(ShapeError, match=r"documents\[4\].*num_layers=3 and num_tokens=5, got \[2, 2, 5\]"):
        grid_values(document(np.zeros((2, 2, 5))), "documents[4]", grid)
    with pytest.raises(ShapeError, match=r"head 1 was requested, but the diagonal has 1 heads"):
        grid_values(document(np.zeros((3, 1, 5))), "documents[0]", grid)
    with pytest.raises(FormatError, match=r"attention weights lie in \[0, 1\], found 0 to 1.5. Was this a logit\?"):
        grid_values(document(np.full((3, 2, 1), [0.0]) + np.linspace(0, 1.5, 3)[:, None, None]), "documents[0]", grid)


def test_grid_values_keeps_the_order_layers_then_heads():
    values = np.arange(3 * 2 * 2).reshape(3, 2, 2) / 100
    grid = choose_grid(NAMES, 2, [2, 0], [1])
    np.testing.assert_array_equal(grid_values(document(values), "d", grid), values[[2, 0], 1].astype(np.float32))


@pytest.mark.parametrize(("first", "expected"), [([1.0, 1.0], True), ([1.0, 0.99], False), ([np.nan, 1.0], False)])
def test_is_causal_needs_every_vector_at_one(first, expected):
    values = np.full((2, 3), 0.2)
    values[:, 0] = first
    assert is_causal(values) is expected


def test_entry_misses_special_or_offsets_of_another_length():
    values = np.full((1, 3), 0.5)
    with pytest.raises(ShapeError, match=r"documents\[7\]: special has 2 entries, but there are 3 tokens"):
        grid_entry(document(np.zeros((1, 1, 3)), special=np.array([True, False])), 7, values, "u16", None)


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.data())
@settings(max_examples=30, deadline=None)
def test_utf16_offsets_cut_the_same_text(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    low, high = utf16_offsets(text, np.array([[start, end]]))
    assert text.encode("utf-16-le")[2 * low : 2 * high].decode("utf-16-le") == text[start:end]
