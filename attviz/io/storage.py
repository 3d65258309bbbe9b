"""How the diagonals of an archive are stored: as floats, or as codes of two bytes or one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attviz.codes import u8_codes, u8_values, u16_codes, u16_values
from attviz.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Storage:
    """One way to store a diagonal.

    Attributes:
        kind: safetensors' name of the stored type.
        dtype: The same for NumPy.
        encode: Converts probabilities to what is stored.
        decode: Converts back to what a document holds.
        error: How far a value may be off, in words.
    """

    kind: str
    dtype: np.dtype[Any]
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    error: str


def _same(values: np.ndarray) -> np.ndarray:
    return values


STORAGES: dict[str, Storage] = {
    "float32": Storage("F32", np.dtype("<f4"), _same, _same, "exact"),
    "float16": Storage("F16", np.dtype("<f2"), _same, _same, "relative 4.9e-4 from 6.1e-5, absolute 3.0e-8 below"),
    "u16": Storage(
        "U16",
        np.dtype("<u2"),
        lambda values: u16_codes(values.astype(np.float64)),
        lambda codes: u16_values(codes).astype(np.float32),
        "relative 2.3e-4 from 1e-8 to 0.0658, absolute 1.6e-5 above",
    ),
    "u8": Storage(
        "U8",
        np.dtype("u1"),
        lambda values: u8_codes(values.astype(np.float64)),
        lambda codes: u8_values(codes).astype(np.float32),
        "relative 2.8 % from 1e-6; what is smaller becomes 1e-6",
    ),
}
BY_KIND = {storage.kind: name for name, storage in STORAGES.items()}


def storage_of(precision: str) -> Storage:
    """The storage with that name.

    Raises:
        ArgumentError: If there is none.
    """
    if precision not in STORAGES:
        raise ArgumentError(f"precision must be one of {', '.join(map(repr, STORAGES))}; got {precision!r}.")
    return STORAGES[precision]
