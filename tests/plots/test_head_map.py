"""The map of heads."""

import numpy as np
import pytest

from attviz.errors import ShapeError
from attviz.plots import head_map


def test_values_are_the_image_and_the_cells():
    values = np.array([[0.1, 0.25], [0.5, np.nan]])
    ax = head_map(values)
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), values)
    assert [text.get_text() for text in ax.texts] == [".10", ".25", ".50", ""]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer")
    assert ax.images[0].get_clim() == (0.0, 0.5)


def test_a_fixed_range_makes_models_comparable():
    assert head_map(np.full((2, 2), 0.1), vmax=1.0).images[0].get_clim() == (0.0, 1.0)


def test_many_heads_are_not_annotated_and_every_second_is_named():
    ax = head_map(np.zeros((32, 32)))
    assert not ax.texts
    assert ax.get_xticks().tolist() == [*range(0, 32, 2)]


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((0, 2)), np.zeros((1, 2, 3))])
def test_a_wrong_shape_is_named(values):
    with pytest.raises(ShapeError, match=r"must be \[num_layers, num_heads\]"):
        head_map(values)
