"""Where transformers looks up the attention functions that pass no dispatcher operator."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch import Tensor

from attviz.hooks.functions import Function, Place, watched
from attviz.hooks.operators.flex import flex_operator

_FLEX = "transformers.integrations.flex_attention"


def transformers_places() -> Iterator[Place]:
    """The places, as far as transformers is loaded; it is never imported for this."""
    flex = getattr(sys.modules.get(_FLEX), "WrappedFlexAttention", None)
    if flex is not None:
        yield Place(flex, "__call__", _flex)


def _flex(compiled_function: Function) -> Function:
    """Watch what the holder of the compiled flex_attention hands out; under a whole-model compile nobody asks it."""

    def hand_out(holder: Any) -> Function:
        return watched(flex_operator(_sinks(sys._getframe(1))), compiled_function(holder))

    return hand_out


def _sinks(frame: FrameType | None) -> Tensor | None:
    """The sinks, which transformers folds in after the kernel, in the function that asked for it."""
    for _ in range(3):
        if frame is None:
            break
        if "s_aux" in frame.f_code.co_varnames:
            sinks: Tensor | None = frame.f_locals.get("s_aux")
            return sinks
        frame = frame.f_back
    return None
