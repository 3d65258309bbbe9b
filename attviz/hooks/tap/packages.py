"""Attention functions of packages that call no operator of the table: where a model's code holds them, they are watched or refused.

Such a function is recognised by where it was defined, among the globals of the files that define the model's modules, or in diffusers'
tables, which all of its models use. Written against SageAttention 0116592 (``core.py``), FlashInfer 002920b (``prefill.py``) and diffusers
002e7ef (``models/attention_dispatch.py``), read and not run.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

from attviz.hooks.scope.model_map import Layout
from attviz.hooks.tap.functions import Function, watched
from attviz.hooks.tap.hub import Place
from attviz.hooks.tap.operators.flash import checked_parameters, reader
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator
from attviz.hooks.tap.transformers import watched_kernel

_DIFFUSERS = "diffusers.models.attention_dispatch"
_REFUSED = {
    "sageattention": "SageAttention rounds queries and keys to 8 bits inside its kernel, so no exact weights exist; switch it off "
    "(diffusers: set_attention_backend('native')) to read the model",
}
_FLASHINFER = ("single_prefill_with_kv_cache", "single_decode_with_kv_cache")
_TABLES = (*_REFUSED, "flashinfer")


def package_places(layout: Layout) -> Iterator[Place]:
    """Where the model's code holds such a function, if the packages are loaded; none is imported for this."""
    hub = getattr(sys.modules.get(_DIFFUSERS), "_HUB_KERNELS_REGISTRY", None)
    for config in (hub or {}).values():
        if isinstance(vars(config).get("kernel_fn"), FunctionType):
            yield Place(config, "kernel_fn", _watched)
    if not any(name in sys.modules for name in _TABLES):
        return
    files = {type(module).__module__ for module in layout.modules.values()} | ({_DIFFUSERS} & set(sys.modules))
    for name in files:
        file = sys.modules.get(name)
        if file is not None and name.partition(".")[0] != "torch":
            yield from _held_by(file)


def _held_by(file: ModuleType) -> Iterator[Place]:
    for attribute, value in list(vars(file).items()):
        if isinstance(value, FunctionType) and value.__module__.partition(".")[0] in _TABLES and _operator(value) is not None:
            yield Place(file, attribute, _watched)


@lru_cache(maxsize=64)
def _watched(function: Function) -> Function:
    operator = _operator(function)
    kernel = watched_kernel(function) if operator is None else watched(operator, function)
    return function if kernel is None else kernel


def _operator(function: Any) -> Operator | None:
    """How to read a function of these packages; None for any other function."""
    package, name = function.__module__.partition(".")[0], function.__name__
    title = f"{package}::{name}"
    if package in _REFUSED or "sage" in name:
        return Operator(title, _refuse, "fused", ())
    if package == "flashinfer" and name in _FLASHINFER:
        names = (*inspect.signature(function).parameters, "causal")  # decoding has no such argument, and one query
        return Operator(title, _one_text(title, names), "fused", ())
    return None


def _refuse(args: Arguments, kwargs: Keywords, result: Any) -> str:
    return _REFUSED["sageattention"]


def _one_text(title: str, names: tuple[str, ...]) -> Any:
    """Reader of FlashInfer's single-request functions: ``[q_len, heads, head_dim]``, decoding without the first dimension."""
    of_dense = reader(title, lambda: checked_parameters(title, names))

    def read(args: Arguments, kwargs: Keywords, result: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get("kv_layout", "NHD") != "NHD" or given.get("pos_encoding_mode", "NONE") != "NONE":
            return f"{title} was given heads before tokens, or rotates queries and keys itself; pass kv_layout='NHD' and rotated tensors"
        if given.get("custom_mask") is not None or given.get("packed_custom_mask") is not None:
            return f"{title} was given a mask of its own, which is not read; use scaled_dot_product_attention"
        if any(given.get(scale) not in (None, 1.0) for scale in ("q_scale", "k_scale")):
            return f"{title} was given scaled queries or keys, which are not read; scale them before the call"
        query = given["q"] if given["q"].ndim == 3 else given["q"][None]
        return of_dense((), {**given, "q": query, "window_right": -1}, query)  # its log-sum-exp is of base 2, and seldom asked for

    return read
