"""Where transformers looks up attention functions that bypass the dispatcher: compiled flex_attention, and flash kernels.

Flash kernels come from the package flash-attn, whose operators the tap already sees, or from the hub, whose operator names are not known in
advance. The functions of the second kind are watched where transformers fetches them, before each call.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from attviz.hooks.scope.stack import variable_of_caller
from attviz.hooks.tap.functions import Function, watched
from attviz.hooks.tap.hub import Place
from attviz.hooks.tap.operators.flash import OPERATORS, checked_parameters, reader
from attviz.hooks.tap.operators.flex import flex_operator
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator

_FLEX = "transformers.integrations.flex_attention"
_FLASH = "transformers.modeling_flash_attention_utils"
_WANTS_LOGSUMEXP = ("return_attn_probs", "return_softmax_lse", "return_lse")  # as flash-attn 2, vLLM's 3 and 4 call it
_PACKAGES = {"flash_attn": "flash_attn", "flash_attn_interface": "flash_attn_3"}  # whose functions call operators of this namespace


def transformers_places() -> Iterator[Place]:
    """The places, if transformers is loaded; it is never imported for this."""
    flex = getattr(sys.modules.get(_FLEX), "WrappedFlexAttention", None)
    if flex is not None:
        yield Place(flex, "__call__", _flex)
    flash = sys.modules.get(_FLASH)
    if hasattr(flash, "lazy_import_flash_attention"):
        yield Place(flash, "lazy_import_flash_attention", _flash)


def _flex(compiled_function: Function) -> Function:
    """Watch what the holder of the compiled flex_attention returns; a fully compiled model does not ask it."""

    def hand_out(holder: Any) -> Function:
        sinks = variable_of_caller("s_aux", depth=3)  # folded in after the kernel, by the function that asked for it
        return watched(flex_operator(sinks), compiled_function(holder))

    return hand_out


def _flash(fetch: Function) -> Function:
    """Watch the kernel functions that transformers fetches; the two that remove and restore padding stay as they are."""

    def fetch_watched(*args: Any, **kwargs: Any) -> Any:
        fetched = fetch(*args, **kwargs)
        if torch.compiler.is_compiling() or not isinstance(fetched, tuple) or not isinstance(fetched[0], tuple):
            return fetched
        return tuple(watched_kernel(kernel) for kernel in fetched[0]), *fetched[1:]

    return fetch_watched


@lru_cache(maxsize=64)
def watched_kernel(function: Function | None) -> Function | None:
    """The watched form of a kernel function; anything else, or a function whose operators are in the table, is returned unchanged."""
    if function is None or _calls_operators(function):
        return function
    try:
        names = tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return function
    if not {"q", "k"} <= set(names) and not {"q", "k_cache"} <= set(names):
        return function
    title = f"{getattr(function, '__module__', '')}::{getattr(function, '__name__', 'flash attention')}"
    wanted = next((name for name in _WANTS_LOGSUMEXP if name in names), "")

    def prepare(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
        return (args, {**kwargs, wanted: True}) if asks(args, kwargs) else (args, kwargs)

    def asks(args: Arguments, kwargs: Keywords) -> bool:
        """Ask for the log-sum-exp, except with dropout: flash-attn 2 would then write out the whole matrix."""
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return bool(wanted) and wanted not in given and not given.get("dropout_p")

    def restore(args: Arguments, kwargs: Keywords, result: Any) -> Any:
        return result[0] if asks(args, kwargs) and isinstance(result, (tuple, list)) else result

    read = reader(title, lambda: checked_parameters(title, names))
    return watched(Operator(title, read, "fused", (), prepare, restore), function)


def _calls_operators(function: Function) -> bool:
    """Whether a function belongs to a package whose operators the tap sees: then those are recorded, not the function."""
    namespace = _PACKAGES.get(str(getattr(function, "__module__", "")).partition(".")[0])
    if namespace is None or ".cute" in function.__module__:  # flash-attn 4 is Python down to its kernels
        return False
    loaded = getattr(torch.ops, namespace)
    return any(hasattr(loaded, name) for space, name in (operator.name.split("::") for operator in OPERATORS) if space == namespace)
