"""The heat map of pairs of heads, and the order that puts like beside like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.clustering import cluster
from attviz.errors import ShapeError
from attviz.plots import head_similarity
from attviz.records import Document


def test_lower_triangle_in_the_given_order():
    matrix = np.array([[1.0, 0.2, 0.3], [0.2, 1.0, 0.4], [0.3, 0.4, 1.0]])
    ax = head_similarity(matrix, names=["a", "b", "c"], cluster=False)
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), [[0.2, np.nan], [0.3, 0.4]])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["b", "c"]


def test_the_axes_say_what_is_compared():
    assert head_similarity(np.eye(3) + 0.1, names=["0.1", "0.2", "1.0"]).get_xlabel() == "head (layer.head)"
    assert head_similarity(np.eye(3) + 0.1).get_ylabel() == "head"
    rng = np.random.default_rng(0)
    words = tuple(f"w{i}" for i in range(24))
    ax = head_similarity(Document(" ".join(words), words, rng.random((20, 16, 24)).astype(np.float32)))  # 320 heads: too many to name
    assert ax.get_xlabel() == "layer (mean of its heads)"
    assert {tick.get_text() for tick in ax.get_xticklabels()} < {str(layer) for layer in range(20)}


def test_chance_is_in_the_colour_bar_and_within_its_range():
    ax = head_similarity(np.array([[1.0, 0.9], [0.9, 1.0]]), null=0.69)
    assert ax.images[0].get_clim()[0] == 0.69
    assert "chance" in [text.get_text() for text in ax.figure.axes[1].texts]


def test_likes_stand_side_by_side():
    group = np.array([0, 1, 0, 1, 0, 1])
    matrix = np.where(group[:, None] == group[None], 0.9, 0.1)
    assert [group[place] for place in cluster(matrix).order] in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


@given(st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_leaf_order_is_a_permutation_whatever_the_matrix(count, seed):
    generator = np.random.default_rng(seed)
    matrix = generator.random((count, count))
    matrix[generator.random((count, count)) < 0.2] = np.nan
    assert sorted(cluster((matrix + matrix.T) / 2).order) == [*range(count)]


@pytest.mark.parametrize(("matrix", "names"), [(np.ones((1, 1)), None), (np.ones((2, 3)), None), (np.ones((2, 2)), ["a"])])
def test_a_wrong_shape_is_named(matrix, names):
    with pytest.raises(ShapeError, match=r"plots.head_similarity: (similarity must be a square|names must be one per head)"):
        head_similarity(matrix, names=names)
