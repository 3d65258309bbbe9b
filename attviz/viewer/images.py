"""Pictures for vision models, as data URIs: the page may load nothing from outside itself."""

from __future__ import annotations

import base64
import struct
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from attviz.errors import ArgumentError

_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def image_uri(image: Any, where: str = "images") -> str:
    """Data URI of a picture.

    Args:
        image: A path or bytes of a PNG or JPEG file, a PIL image, or an array [height, width] or [height, width, 3] of uint8, or
            of floats in [0, 1].
        where: Name of the argument in the error.

    Raises:
        ArgumentError: If it is not one of these.

    Example:
        >>> image_uri(np.zeros((2, 3, 3), np.uint8))[:22]
        'data:image/png;base64,'
    """
    if isinstance(image, (str, PathLike)):
        image = Path(image).read_bytes()
    if isinstance(image, (bytes, bytearray)):
        for magic, kind in _KINDS.items():
            if bytes(image).startswith(magic):
                return f"data:{kind};base64,{base64.b64encode(bytes(image)).decode('ascii')}"
        raise ArgumentError(f"view: {where}: the bytes begin with {bytes(image)[:8]!r}, which is neither PNG nor JPEG.")
    if hasattr(image, "convert"):  # a PIL image, without importing PIL
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ArgumentError(f"view: {where}: an image is [height, width, 3], got an array of shape {list(array.shape)}.")
    if array.dtype != np.uint8:
        array = np.rint(np.clip(np.nan_to_num(array.astype(np.float64)), 0, 1) * 255).astype(np.uint8)
    return f"data:image/png;base64,{base64.b64encode(_png(array)).decode('ascii')}"


def _png(pixels: np.ndarray) -> bytes:
    """Eight-bit RGB without interlacing and with filter 0: the smallest PNG writer there is."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body
