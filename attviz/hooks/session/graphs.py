"""CUDA graphs: what a capture cannot see is refused by name, before it can break the user's forward.

A replayed graph runs no Python, so nothing passes the tap. While a graph is recorded, whatever a capture keeps would be in the graph's own
memory, where PyTorch refuses it inside the user's forward or the next replay overwrites it. So a capture of a model that was compiled to
replay graphs is refused on entry. Attention that is recorded into a graph by hand, or by a model compiled while the context is open, is
left alone and reported: the user's forward runs as it would without a capture.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attviz.errors import CaptureError
from attviz.hooks.scope.model_map import Layout
from attviz.hooks.scope.stack import called_from

RECORDED = (
    "it ran while a CUDA graph was recorded, and a replayed graph runs no Python, so nothing of it can be seen; run the captured forwards "
    "outside of torch.cuda.graph, and compile them with mode='default' or 'max-autotune-no-cudagraphs'"
)
_TREES = "torch._inductor.cudagraph_trees"  # imported when a first model is compiled to replay graphs


def refuse_replays(model: nn.Module, layout: Layout) -> None:
    """Raise if a compiled part of a model on CUDA replays CUDA graphs.

    Raises:
        CaptureError: The message names the parts, and how to compile them instead.
    """
    if not layout.regions or not _on_cuda(model) or eager_stance():
        return
    replaying = [name for name, region in layout.regions.items() if _replays(region)]
    if not replaying:
        return
    names = ", ".join(repr(name) if name else type(model).__name__ for name in replaying[:4])
    raise CaptureError(
        f"capture: {names} is compiled to replay CUDA graphs (mode='reduce-overhead' or 'max-autotune'), which run no Python, so no "
        "attention can be seen.\n  Cure: compile it with mode='default' or 'max-autotune-no-cudagraphs', or run the captured forwards "
        "without the compiler: with torch.compiler.set_stance('force_eager'), attviz.capture(model): model(...)"
    )


def being_recorded(args: tuple[Any, ...]) -> bool:
    """Whether an operator is being recorded into a CUDA graph or warmed up for one: what is kept then is in the graph's memory."""
    first = args[0] if args else None
    if not isinstance(first, Tensor) or not _is_cuda(first):
        return False
    return torch.cuda.is_current_stream_capturing() or (_TREES in sys.modules and called_from(_TREES))


def _is_cuda(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _replays(region: nn.Module) -> bool:
    """Whether a compiled part replays graphs, by its options; only inductor has them."""
    compiled = getattr(region, "_compiled_call_impl", None)
    ask: Callable[[], Any] | None = getattr(region, "get_compiler_config", None) or getattr(compiled, "get_compiler_config", None)
    options = ask() if ask is not None else None
    return options is not None and bool(options.get("triton.cudagraphs", False))


def _on_cuda(model: nn.Module) -> bool:
    tensor = next(model.parameters(), None)
    return tensor is not None and tensor.is_cuda


def eager_stance() -> bool:
    """Whether compiled code runs as it was written now."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    stance = getattr(getattr(frames, "_stance", None), "stance", "default")
    return bool(stance == "force_eager")
