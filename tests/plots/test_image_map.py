"""The heat map over an image."""

import numpy as np
import pytest

from attviz.errors import ShapeError
from attviz.plots import image_map


def test_patches_are_the_last_values_row_by_row():
    ax = image_map(np.array([9.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5]), grid=(2, 3))
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]])


def test_the_image_lies_below_on_the_same_grid():
    ax = image_map(np.zeros(6), grid=(2, 3), image=np.zeros((20, 30, 3)))
    assert len(ax.images) == 2
    assert ax.images[0].get_extent() == ax.images[1].get_extent()


def test_too_few_values_are_named():
    with pytest.raises(ShapeError, match=r"at least 2 x 3 patches in one row, got shape \[5\]"):
        image_map(np.zeros(5), grid=(2, 3))
