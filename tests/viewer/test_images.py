import base64
import io

import numpy as np
import pytest
from PIL import Image

from attviz.errors import ArgumentError
from attviz.viewer.images import image_uri


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_arrays_come_back_pixel_by_pixel():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(image_uri(picture)), picture)
    np.testing.assert_array_equal(pixels(image_uri(picture / 255.0)), picture)
    np.testing.assert_array_equal(pixels(image_uri(Image.fromarray(picture))), picture)
    np.testing.assert_array_equal(pixels(image_uri(picture[:, :, 0]))[:, :, 1], picture[:, :, 0])


def test_files_are_passed_through(tmp_path):
    file = tmp_path / "a.jpg"
    Image.new("RGB", (3, 2), "red").save(file)
    assert image_uri(file).startswith("data:image/jpeg;base64,")
    assert base64.b64decode(image_uri(file.read_bytes()).split(",")[1]) == file.read_bytes()


def test_what_is_no_picture_is_refused():
    with pytest.raises(ArgumentError, match=r"images\[3\]: the bytes begin with b'<svg onl', which is neither PNG nor JPEG"):
        image_uri(b"<svg onload=alert(1)>", "images[3]")
    with pytest.raises(ArgumentError, match=r"got an array of shape \[2, 2, 4\]"):
        image_uri(np.zeros((2, 2, 4)))
