"""The heat map over an image."""

import numpy as np
import pytest
import torch

import attviz
from attviz.errors import ArgumentError, ShapeError, UnknownLayerError
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


@pytest.fixture(scope="module")
def seen():
    """A real capture of a real vision model: one image, 6 patches behind a [CLS]."""
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTModel(ViTConfig(image_size=(8, 12), patch_size=4, **sizes), add_pooling_layer=False).eval()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(torch.randn(1, 3, 8, 12))
    return cap


def test_a_capture_is_drawn_as_it_is(seen):
    diagonal = seen.diagonal[:, 0, :, 1:].numpy()
    drawn = image_map(seen, grid=(2, 3)).images[0].get_array()
    np.testing.assert_allclose(drawn, diagonal.mean((0, 1)).reshape(2, 3), rtol=1e-6)
    drawn = image_map(seen.documents[0], grid=(2, 3), layers=1, heads=0).images[0].get_array()
    np.testing.assert_allclose(drawn, diagonal[1, 0].reshape(2, 3), rtol=1e-6)


def test_what_a_capture_does_not_say_is_asked_for(seen):
    with pytest.raises(ArgumentError, match=r"pass grid=\(rows, columns\) of the patches"):
        image_map(seen)
    with pytest.raises(UnknownLayerError, match="layers=2 matches none of the 2 layers"):
        image_map(seen, grid=(2, 3), layers=2)
    with pytest.raises(ArgumentError, match="heads= and documents= choose from a Capture"):
        image_map(np.zeros(6), grid=(2, 3), heads=0)
