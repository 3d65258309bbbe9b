"""Softmaxes that may be attention: eager models, and the math path of SDPA before its dropout.

``_safe_softmax`` calls ``_softmax``: the tap records the outermost of nested operators only.
"""

from __future__ import annotations

from typing import Any

from attviz.calls.softmax import SoftmaxCall
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator


def _reader(name: str, dim_index: int) -> Any:
    def read(args: Arguments, kwargs: Keywords, result: Any) -> SoftmaxCall | str | None:
        dim = args[dim_index] if len(args) > dim_index else kwargs.get("dim")
        if result.ndim < 3:
            return None
        if dim is not None and dim not in (-1, result.ndim - 1):
            return "its softmax runs over another dimension than that of the keys"
        return SoftmaxCall(name, result, args[0])

    return read


def _softmax(name: str, dim_index: int, keys: tuple[str, ...] = ("CPU", "CUDA", "MPS", "XPU")) -> Operator:
    return Operator(name, _reader(name, dim_index), "softmax", keys)


OPERATORS = (
    _softmax("aten::_softmax", 1),
    _softmax("aten::_safe_softmax", 1),
)
