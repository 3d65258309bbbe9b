"""``torch.compile(flex_attention)`` held by hand-written code: as a global of the file that defines a module, or as an attribute.

The attribute may be the module's own, or that of its class, where torchtitan keeps it (``FlexAttentionWrapper._compiled_flex_attn``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from attviz.hooks.scope.model_map import Layout
from attviz.hooks.tap.functions import Function, watched
from attviz.hooks.tap.hub import Place
from attviz.hooks.tap.operators.flex import flex_operator

_FLEX = "torch.nn.attention.flex_attention"
_LIBRARIES = ("torch", "transformers")  # hold none, or are watched elsewhere; their files are large


def compiled_flex_places(layout: Layout) -> Iterator[Place]:
    """Where the code of a model holds a compiled flex_attention. One in a closure, a container or a partial is missed loudly."""
    flex = getattr(sys.modules.get(_FLEX), "flex_attention", None)
    if flex is None or "torch._dynamo.eval_frame" not in sys.modules:
        return
    files: dict[str, ModuleType] = {}
    kinds = {type(module) for module in layout.modules.values()}
    own = {kind for kind in kinds if kind.__module__.partition(".")[0] not in _LIBRARIES}
    for module in layout.modules.values() if own else ():
        if type(module) in own:
            yield from _held_by(module, flex)
    for kind in own:
        yield from _held_by(kind, flex)
        if kind.__module__ in sys.modules:
            files[kind.__module__] = sys.modules[kind.__module__]
    for file in files.values():
        yield from _held_by(file, flex)


def _held_by(owner: nn.Module | ModuleType | type, flex: Any) -> Iterator[Place]:
    for attribute, value in list(vars(owner).items()):
        if isinstance(value, staticmethod) and getattr(value.__func__, "_torchdynamo_orig_callable", None) is flex:
            yield Place(owner, attribute, _watched_static)
        elif isinstance(value, FunctionType) and getattr(value, "_torchdynamo_orig_callable", None) is flex:
            yield Place(owner, attribute, _watched)


def _watched_static(compiled: Any) -> Any:
    return staticmethod(_watched(compiled.__func__))


def _watched(compiled: Function) -> Function:
    return watched(flex_operator(), compiled)
