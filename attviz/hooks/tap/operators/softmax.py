"""Softmaxes that may be attention: eager models, and the math path of SDPA before its dropout.

``_safe_softmax`` calls ``_softmax``; of nested operators, the tap records only the outermost.
"""

from __future__ import annotations

from typing import Any

from attviz.calls.softmax import SoftmaxCall
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator


def _reader(name: str) -> Any:
    def read(args: Arguments, kwargs: Keywords, result: Any) -> SoftmaxCall | None:
        return None if result.ndim < 2 else SoftmaxCall(name, result, args[0])

    return read


def dimension(args: Arguments, kwargs: Keywords) -> int:
    """The dimension a softmax runs over, counted from the front."""
    dim: int = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    axes: int = args[0].ndim
    return dim % max(axes, 1)


def _softmax(name: str, keys: tuple[str, ...] = ("CPU", "CUDA", "MPS", "XPU")) -> Operator:
    return Operator(name, _reader(name), "softmax", keys)


OPERATORS = (
    _softmax("aten::_softmax"),
    _softmax("aten::_softmax.out"),
    _softmax("aten::_safe_softmax"),
)
