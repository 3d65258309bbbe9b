"""Probabilities in two bytes or one, near-exact where diagonals live, and a code for "missing": for the page and for archives.

Diagonals span five decades, so neither a linear nor a logarithmic u16 serves: the first loses the small values, the second is
off by 1.4e-4 near 1. The hybrid is logarithmic below :data:`KNEE` and linear above it, with equal steps where the two meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

KNEE = 0.0658
_U16_FLOOR, _U16_LOG_CODES, _U16_ONE, _U16_MISSING = 1e-8, 34925, 65534, 65535
_U8_FLOOR, _U8_ONE, _U8_MISSING = 1e-6, 254, 255


def u16_codes(values: Float[np.ndarray, " n"]) -> np.ndarray:
    """Codes of probabilities in [0, 1]; NaN has its own code. Absolute error 1/65535, relative 2.3e-4 from 1e-8 to 0.0658.

    Example:
        >>> u16_codes(np.array([0.0, 1.0, np.nan])).astype(int).tolist()
        [0, 65534, 65535]
    """
    positive = np.where(values > 0, values, 1.0)  # the logarithm of what is not logged is never read
    log_codes = 1 + np.log(np.maximum(positive, _U16_FLOOR) / _U16_FLOOR) / np.log(KNEE / _U16_FLOOR) * (_U16_LOG_CODES - 1)
    linear = _U16_LOG_CODES + (values - KNEE) / (1 - KNEE) * (_U16_ONE - _U16_LOG_CODES)
    codes = np.where(values <= 0, 0, np.where(values < KNEE, log_codes, linear))
    return np.where(np.isnan(values), _U16_MISSING, np.rint(np.nan_to_num(codes)))


def u16_values(codes: np.ndarray) -> Float[np.ndarray, " n"]:
    """Undo :func:`u16_codes`, in float64."""
    code = codes.astype(np.float64)
    low = _U16_FLOOR * np.exp((code - 1) / (_U16_LOG_CODES - 1) * np.log(KNEE / _U16_FLOOR))
    high = KNEE + (code - _U16_LOG_CODES) / (_U16_ONE - _U16_LOG_CODES) * (1 - KNEE)
    values = np.where(code == 0, 0.0, np.where(code <= _U16_LOG_CODES, low, high))
    return np.where(codes == _U16_MISSING, np.nan, np.where(codes == _U16_ONE, 1.0, values))


def u8_codes(values: Float[np.ndarray, " n"]) -> np.ndarray:
    """Codes of probabilities in [0, 1]; NaN has its own code. Relative error 2.8 % from 1e-6, below which a value becomes 1e-6.

    Example:
        >>> u8_codes(np.array([0.0, 1.0, np.nan])).astype(int).tolist()
        [0, 254, 255]
    """
    positive = np.where(values > 0, values, 1.0)
    log_codes = 1 + np.log(np.maximum(positive, _U8_FLOOR) / _U8_FLOOR) / -np.log(_U8_FLOOR) * (_U8_ONE - 1)
    codes = np.where(values <= 0, 0, log_codes)
    return np.where(np.isnan(values), _U8_MISSING, np.rint(np.nan_to_num(codes)))


def u8_values(codes: np.ndarray) -> Float[np.ndarray, " n"]:
    """Undo :func:`u8_codes`, in float64."""
    values = _U8_FLOOR * np.exp((codes.astype(np.float64) - 1) / (_U8_ONE - 1) * -np.log(_U8_FLOOR))
    values = np.where(codes == 0, 0.0, np.where(codes == _U8_ONE, 1.0, values))
    return np.where(codes == _U8_MISSING, np.nan, values)
