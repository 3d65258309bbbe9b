"""Numbers in a page: two bytes per value, near-exact where diagonals live, and a code for "missing".

Diagonals span five decades, so neither a linear nor a logarithmic u16 serves: the first loses the small values, the second is
off by 1.4e-4 near 1. The hybrid is logarithmic below :data:`KNEE` and linear above it, with the steps equal where they meet.
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from attviz.errors import ArgumentError

if TYPE_CHECKING:
    from jaxtyping import Float

Precision = Literal["u16", "u8", "f32"]

KNEE = 0.0658
_U16_FLOOR, _U16_LOG_CODES, _U16_ONE, _U16_MISSING = 1e-8, 34925, 65534, 65535
_U8_FLOOR, _U8_ONE, _U8_MISSING = 1e-6, 254, 255

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
        raw = _u16_codes(flat.astype(np.float64)).astype("<u2").tobytes()
    else:
        raw = _u8_codes(flat.astype(np.float64)).astype("u1").tobytes()
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
        return _u16_values(np.frombuffer(raw, "<u2"))
    return _u8_values(np.frombuffer(raw, "u1"))


def _u16_codes(values: Float[np.ndarray, " n"]) -> np.ndarray:
    positive = np.where(values > 0, values, 1.0)  # the logarithm of what is not logged is never read
    log_codes = 1 + np.log(np.maximum(positive, _U16_FLOOR) / _U16_FLOOR) / np.log(KNEE / _U16_FLOOR) * (_U16_LOG_CODES - 1)
    linear = _U16_LOG_CODES + (values - KNEE) / (1 - KNEE) * (_U16_ONE - _U16_LOG_CODES)
    codes = np.where(values <= 0, 0, np.where(values < KNEE, log_codes, linear))
    return np.where(np.isnan(values), _U16_MISSING, np.rint(np.nan_to_num(codes)))


def _u16_values(codes: np.ndarray) -> Float[np.ndarray, " n"]:
    code = codes.astype(np.float64)
    low = _U16_FLOOR * np.exp((code - 1) / (_U16_LOG_CODES - 1) * np.log(KNEE / _U16_FLOOR))
    high = KNEE + (code - _U16_LOG_CODES) / (_U16_ONE - _U16_LOG_CODES) * (1 - KNEE)
    values = np.where(code == 0, 0.0, np.where(code <= _U16_LOG_CODES, low, high))
    return np.where(codes == _U16_MISSING, np.nan, np.where(codes == _U16_ONE, 1.0, values))


def _u8_codes(values: Float[np.ndarray, " n"]) -> np.ndarray:
    positive = np.where(values > 0, values, 1.0)
    log_codes = 1 + np.log(np.maximum(positive, _U8_FLOOR) / _U8_FLOOR) / -np.log(_U8_FLOOR) * (_U8_ONE - 1)
    codes = np.where(values <= 0, 0, log_codes)
    return np.where(np.isnan(values), _U8_MISSING, np.rint(np.nan_to_num(codes)))


def _u8_values(codes: np.ndarray) -> Float[np.ndarray, " n"]:
    values = _U8_FLOOR * np.exp((codes.astype(np.float64) - 1) / (_U8_ONE - 1) * -np.log(_U8_FLOOR))
    values = np.where(codes == 0, 0.0, np.where(codes == _U8_ONE, 1.0, values))
    return np.where(codes == _U8_MISSING, np.nan, values)
