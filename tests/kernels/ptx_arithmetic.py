"""What the arithmetic instructions of PTX compute, in NumPy: part of the interpreter in tests/kernels/ptx.py."""

from __future__ import annotations

import numpy as np

TYPES = {f"{kind}{bits}": np.dtype(f"{code}{bits // 8}") for kind, code in (("s", "i"), ("u", "u"), ("b", "u")) for bits in (8, 16, 32, 64)}
TYPES |= {"f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8"), "pred": np.dtype(bool), "bf16": np.dtype("u2")}
COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "min": np.fmin, "max": np.fmax,
}  # fmt: skip
UNARY = {"abs": np.abs, "neg": np.negative, "not": np.invert, "sqrt": np.sqrt, "ex2": np.exp2, "lg2": np.log2, "rcp": np.reciprocal}


class PtxError(Exception):
    """What a GPU would not forgive, or what this interpreter does not know; the message ends in the instruction."""


def convert(value: np.ndarray, source: str, target: str) -> np.ndarray:
    """One type to another; bfloat16 is the upper half of float32."""
    if source == "bf16":
        value = (value.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if target == "bf16":
        bits = value.astype(np.float32).view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return value.astype(TYPES[target])


def compare(how: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A comparison with NaN is false, and true for those that end in u."""
    unordered = how.endswith("u") and how != "lu"
    result = COMPARE[how.removesuffix("u") if unordered else how](a, b)
    if a.dtype.kind != "f":
        return result
    nan = np.isnan(a) | np.isnan(b)
    return result | nan if unordered else result & ~nan


def arithmetic(name: str, parts: tuple[str, ...], kind: str, values: list[np.ndarray]) -> np.ndarray:
    """Sums, products, shifts and functions of their own type; ``wide`` products are of twice its width."""
    if name in ("mul", "mad") and "wide" in parts:
        wide = np.dtype(f"{values[0].dtype.kind}8")
        product = values[0].astype(wide) * values[1].astype(wide)
        return product if name == "mul" else product + values[2]
    if name in ("fma", "mad"):
        exact = np.float64 if kind == "f32" else values[0].dtype
        return (values[0].astype(exact) * values[1].astype(exact) + values[2].astype(exact)).astype(values[0].dtype)
    if name in BINARY:
        return BINARY[name](*values)
    if name in UNARY:
        return UNARY[name](values[0])
    if name == "div":
        a, b = values
        if a.dtype.kind == "f":
            return a / b
        return np.where((a % b != 0) & ((a < 0) != (b < 0)), a // b + 1, a // b).astype(a.dtype)  # towards zero
    if name in ("shl", "shr"):
        amount = values[1].astype(np.int64) & 0xFFFFFFFF
        width = 8 * values[0].itemsize
        shift = np.left_shift if name == "shl" else np.right_shift
        shifted = shift(values[0], np.minimum(amount, width - 1).astype(values[0].dtype))
        return np.where((amount < width) | (values[0].dtype.kind == "i"), shifted, 0).astype(values[0].dtype)
    if name == "bfe":
        first, count = (value.astype(np.int64) for value in values[1:])
        field = (values[0].astype(np.int64) >> first) & ((1 << count) - 1)
        negative = (kind[0] == "s") & (field >> np.maximum(count - 1, 0) & 1 == 1)
        return np.where(negative, field - (1 << count), field).astype(values[0].dtype)
    raise PtxError(f"{name} is not known")
