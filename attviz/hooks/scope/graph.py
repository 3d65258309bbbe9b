"""What the graph of compiled code shows of a running operator: the module it was written in, and the columns joined to its scores.

Inside compiled code no module is called. Where the compiler runs its graph node by node (the backends ``eager`` and ``aot_eager``), each
node says which module it comes from, relative to the module whose forward was compiled, and what its inputs were made of.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

_CASTS = frozenset("to float half bfloat16 double type_as _to_copy clone contiguous detach alias".split())
_SUMS = frozenset("add add_ iadd sub sub_ isub".split())
_SCALES = frozenset("mul mul_ imul div div_ truediv masked_fill masked_fill_ tanh".split())
_VIEWS = frozenset(
    "transpose permute view reshape _unsafe_view unsqueeze squeeze expand flatten unflatten t slice getitem chunk split".split()
)
_PRODUCTS = frozenset("matmul bmm baddbmm mm addmm linear einsum".split())


class Joined(NamedTuple):
    """Columns that were concatenated behind the scores of a softmax.

    Attributes:
        columns: How many.
        learned: Whether each was shown to be a projection by weights, beside scores that are products of tokens: a sink, not a key.
    """

    columns: int
    learned: bool


def module_of(node: Any, running: nn.Module) -> tuple[nn.Module, str] | None:
    """The module a node was written in, found from the module whose compiled forward runs, and the number of its call; None if unknown.

    Layers of one class share compiled code, so the path counts, not the module that was compiled first.
    """
    stack = node.meta.get("nn_module_stack")
    name = _name(node)
    if not stack or not ("softmax" in name or "attention" in name):
        return None
    key, (path, kind) = list(stack.items())[-1]
    found = _below(running, path, kind)
    return None if found is None else (found, str(key))


def modules_in(graph: Any, running: nn.Module) -> list[nn.Module]:
    """The modules that a compiled graph ran code of."""
    calls = {call for node in graph.nodes for call in (node.meta.get("nn_module_stack") or {}).values()}
    return [found for path, kind in calls if (found := _below(running, path, kind)) is not None]


def _below(running: nn.Module, path: str, kind: Any) -> nn.Module | None:
    """The module at a path such as ``L['self'].layers[0].attention``, which may have ``_modules['layers']`` in it."""
    found: nn.Module | None = running
    for part in path.partition(".")[2].replace("[", ".").replace("]", "").replace("'", "").split("."):
        if part not in ("", "_modules", "_orig_mod") and found is not None:
            found = found._modules.get(part)
    return found if type(found) is kind else None


def joined(softmax: Any) -> Joined | None:
    """The columns behind the scores of a softmax; None if nothing is seen to be joined there."""
    node = _first(softmax)
    while node is not None and _name(node) in _CASTS | _SUMS | _SCALES:
        node = _first(node)
    if node is None or _name(node) not in ("cat", "concat", "concatenate"):
        return None
    pieces = node.args[0] if node.args else node.kwargs.get("tensors", ())
    sizes = [_size(piece) for piece in pieces[1:]]
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not sizes or None in sizes or dim not in (-1, _axes(node) - 1):
        return None
    learned = _kind(pieces[0]) == "tokens" and all(_kind(piece) == "weights" for piece in pieces[1:])
    return Joined(sum(size for size in sizes if size is not None), learned)


def _kind(node: Any) -> str | None:
    """Whether the last product in a tensor is one by weights, or one of two tensors that may both be tokens; None if it cannot be told."""
    name = _name(node)
    if name in _PRODUCTS:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        by_weights = bool(stack) and stack[-1][1] is nn.Linear
        by_weights = by_weights or any(_is_parameter(each) for each in node.args if isinstance(each, torch.fx.Node))
        return "weights" if by_weights else "tokens" if name in ("matmul", "bmm", "baddbmm") else None
    inputs = [each for each in node.args if isinstance(each, torch.fx.Node)]
    if name in _SUMS:
        kinds = {_kind(each) for each in inputs}
        return "tokens" if "tokens" in kinds else "weights" if kinds == {"weights"} else None
    if name in ("masked_fill", "masked_fill_"):
        inputs = inputs[:1]
    return _kind(inputs[0]) if name in _CASTS | _SCALES | _VIEWS and len(inputs) == 1 else None


def _is_parameter(node: Any) -> bool:
    while _name(node) in _VIEWS | _CASTS and (first := _first(node)) is not None:
        node = first
    return node.op in ("placeholder", "get_attr") and isinstance(node.meta.get("example_value"), nn.Parameter)


def _first(node: Any) -> Any:
    """The first input that is a tensor of the graph."""
    return next((each for each in (*node.args, *node.kwargs.values()) if isinstance(each, torch.fx.Node)), None)


def _name(node: Any) -> str:
    target = node.target
    return target if isinstance(target, str) else str(getattr(target, "__name__", "")).partition(".")[0]


def _value(node: Any) -> Any:
    value = node.meta.get("val")
    return node.meta.get("example_value") if value is None else value


def _size(node: Any) -> int | None:
    """Columns of a piece; None where only the run knows."""
    value = _value(node)
    return int(value.shape[-1]) if isinstance(value, torch.Tensor) and isinstance(value.shape[-1], int) else None


def _axes(node: Any) -> int:
    value = _value(node)
    return value.ndim if isinstance(value, torch.Tensor) else 0
