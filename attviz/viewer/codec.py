"""Numbers in a page: two bytes per value, near-exact where diagonals live, and a code for "missing".

The codes are those of :mod:`attviz.codes`; here they are packed for the page.
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from attviz.codes import u8_codes, u8_values, u16_codes, u16_values
from attviz.errors import ArgumentError

if TYPE_CHECKING:
    from jaxtyping import Float

Precision = Literal["u16", "u8", "f32"]

BYTES_PER_VALUE: dict[str, int] = {"u16": 2, "u8": 1, "f32": 4}


def check_precision(precision: str) -> Precision:
    """Return ``precision`` if the page knows it.

    Raises:
        ArgumentError: If it is not one of ``"u16"``, ``"u8"``, ``"f32"``.

    Example:
        >>> check_precision("u16")
        'u16'
    """
    for known in get_args(Precision):
        if precision == known:
            return known  # type: ignore[no-any-return]
    raise ArgumentError(f"view: precision must be one of {', '.join(get_args(Precision))}, got {precision!r}.")


def encode(values: Float[np.ndarray, " n"], precision: Precision) -> str:
    """Code, deflate and base64 the values of one document.

    Args:
        values: Any shape, read in C order. ``"u16"`` and ``"u8"`` take probabilities in [0, 1]; NaN means "missing" everywhere.
        precision: ``"u16"`` (absolute error 1/65535, relative 2.3e-4 from 1e-8 to 0.0658), ``"u8"`` (relative error 2.8 % from
            1e-6), or ``"f32"`` (exact in float32).

    Returns:
        Base64 of the zlib stream.

    Example:
        >>> decode(encode(np.array([0.0, 1.0]), "u8"), "u8").tolist()
        [0.0, 1.0]
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if precision == "f32":
        raw = flat.astype("<f4").tobytes()
    elif precision == "u16":
        raw = u16_codes(flat.astype(np.float64)).astype("<u2").tobytes()
    else:
        raw = u8_codes(flat.astype(np.float64)).astype("u1").tobytes()
    return base64.b64encode(zlib.compress(raw, 6)).decode("ascii")


def decode(text: str, precision: Precision) -> Float[np.ndarray, " n"]:
    """Undo :func:`encode`; the script of the page does the same.

    Example:
        >>> decode(encode(np.array([0.25], np.float32), "f32"), "f32").tolist()
        [0.25]
    """
    raw = zlib.decompress(base64.b64decode(text))
    if precision == "f32":
        return np.frombuffer(raw, "<f4").astype(np.float32)
    if precision == "u16":
        return u16_values(np.frombuffer(raw, "<u2"))
    return u8_values(np.frombuffer(raw, "u1"))
