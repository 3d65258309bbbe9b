"""What is running now, according to the Python stack: the only file that looks at frames.

Every call of a module passes through ``nn.Module._wrapped_call_impl`` and, unless it is compiled in place, ``_call_impl``; their frames
hold the module. So the tap can name the innermost module without a hook on it: inside compiled regions, inside the fast path of
``nn.TransformerEncoderLayer`` (which a hook would switch off), and for modules nobody expected to attend.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from types import FrameType
from typing import Any, NamedTuple

from torch import nn

_CODES = (nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__)


class Running(NamedTuple):
    """A module that is being called, its arguments, and which call it is (the identity of its frame)."""

    module: nn.Module
    identity: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def running_modules() -> Iterator[Running]:
    """Modules being called on this thread, innermost first."""
    frame = sys._getframe(1)
    previous: nn.Module | None = None
    while frame is not None:
        if frame.f_code in _CODES:
            seen = frame.f_locals
            module = seen["self"]
            if module is not previous:  # _wrapped_call_impl right above its own _call_impl
                yield Running(module, id(frame), seen["args"], seen["kwargs"])
            previous = module
        frame = frame.f_back  # type: ignore[assignment]


def compiled_node() -> tuple[Any, int] | None:
    """The ``torch.fx.Node`` that runs an operator in code compiled for the innermost module, and which run of its graph that is.

    None if that module runs as it was written; a node of None if the compiled code keeps no graph.
    """
    graphs = sys.modules.get("torch.fx.graph_module")
    frame: FrameType | None = sys._getframe(1)
    compiled: tuple[Any, int] | None = None
    while frame is not None and graphs is not None:
        code, node = frame.f_code, None
        if code in _CODES and not isinstance(frame.f_locals["self"], graphs.GraphModule):
            break
        if code.co_name == "run_node":  # of an interpreter of graphs
            node = frame.f_locals.get("n")
        elif code.co_filename.startswith("<eval_with_key>"):
            node = _node_at(frame.f_locals.get("self"), frame.f_lineno - code.co_firstlineno)
        elif code.co_name == "_fn" and frame.f_globals.get("__name__") == "torch._dynamo.eval_frame":
            compiled = compiled or (None, id(frame))
        if isinstance(node, graphs.torch.fx.Node):
            return node, id(frame)
        frame = frame.f_back
    return compiled


def _node_at(graph: Any, line: int) -> Any:
    """Node of the code that was generated for a graph, by its line from ``def`` on; None if the graph does not tell."""
    index = None if graph is None else vars(graph).get("_lineno_map", {}).get(line)
    return None if index is None else next(islice(graph.graph.nodes, index, None), None)


def runs_in(function: str, depth: int) -> bool:
    """Whether a function of this name is among the last ``depth`` callers of this thread."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(depth):
        if frame is None:
            return False
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


def called_from(file: str) -> bool:
    """Whether a function from the Python module of this name is between the running module and the caller."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in _CODES:
        if frame.f_globals.get("__name__") == file:
            return True
        frame = frame.f_back
    return False


def variable_of_caller(name: str, depth: int) -> Any:
    """Value of a local variable in the nearest of the last ``depth`` callers, except the asking one, that has it; None if none does."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(depth):
        if frame is None:
            break
        if name in frame.f_code.co_varnames:
            return frame.f_locals.get(name)
        frame = frame.f_back
    return None


def calling_object(attributes: tuple[str, ...], depth: int) -> Any:
    """``self`` of the nearest of the last ``depth`` callers, not counting the asking one, that has these attributes; None if none does."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(depth):
        if frame is None:
            break
        if "self" in frame.f_code.co_varnames:
            found = frame.f_locals.get("self")
            if all(hasattr(found, attribute) for attribute in attributes):
                return found
        frame = frame.f_back
    return None


def call_site() -> int:
    """Where an operator was called in generated code: every frame and line up to the module that runs it."""
    places: list[tuple[int, int]] = []
    frame = sys._getframe(1)
    while frame is not None and frame.f_code not in _CODES:
        places.append((id(frame.f_code), frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return hash(tuple(places))
