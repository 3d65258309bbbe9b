"""Which modules of a model are expected to attend, which contain them, and which a hook can never reach.

Names and structure determine what to *expect*, so that a miss is loud; what is recorded comes from the tap.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from attviz.names import CHECKED_LIBRARIES, named_after_attention


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model looks like from outside, read once per capture.

    Names are those in the author's model: the ``_orig_mod`` of a compiled module is left out.

    Attributes:
        names: Qualified name of each module by ``id``; the first, if a module has several.
        modules: The modules by name; also keeps the ids valid.
        expected: Names of the modules that should attend, in order of registration.
        containers: Modules that are called and hold several attention modules: the model, its encoder, its decoder.
        regions: Modules whose forward is compiled, outermost only, each as the caller sees it.
        hidden: Names below a region or in a fast-path layer, where a hook would not run or would change the path.
    """

    names: dict[int, str]
    modules: dict[str, nn.Module]
    expected: tuple[str, ...]
    containers: tuple[str, ...]
    regions: dict[str, nn.Module]
    hidden: frozenset[str]

    def from_library(self, name: str | None) -> bool:
        """Whether a module belongs to a library whose attention was checked class by class, and is called by that library.

        torch's own ``nn.MultiheadAttention`` may be called by anyone.
        """
        module = None if name is None else self.modules[name]
        while name and isinstance(module, (nn.MultiheadAttention, *_HOLDING)):
            name = name.rpartition(".")[0]
            module = self.modules[name]
        return is_of_library(module) and not isinstance(module, (nn.MultiheadAttention, *_HOLDING))

    def expected_in(self, name: str) -> tuple[str, ...]:
        """Expected attention modules at or below ``name``."""
        return tuple(layer for layer in self.expected if at_or_below(layer, name))


def read_layout(model: nn.Module) -> Layout:
    """Walk the model once and collect what a capture needs to know."""
    names: dict[int, str] = {}
    modules: dict[str, nn.Module] = {}
    regions: dict[str, nn.Module] = {}
    fast: list[str] = []
    kinds: dict[type[nn.Module], tuple[bool, bool]] = {}
    structure: list[Any] = []
    for raw, module in modules_by_name(model):
        name = raw if "_orig_mod" not in raw else ".".join(part for part in raw.split(".") if part != "_orig_mod")
        names[id(module)] = name
        modules[name] = module
        kind = type(module)
        if kind not in kinds:
            kinds[kind] = is_compiled_wrapper(module) or is_scripted(module), isinstance(module, nn.TransformerEncoderLayer)
        opaque, is_fast = kinds[kind]
        if (opaque or module._compiled_call_impl is not None) and not any(at_or_below(name, top) for top in regions):
            regions[name] = module
        if is_fast:
            fast.append(name)
        parameters = module._parameters
        structure += name, kind, [None if one is None else one.ndim for one in parameters.values()] if parameters else None
    if not regions and not fast:
        before = _structures.get(model)
        if before is None or before[0] != structure:
            expected = tuple(_expected(modules))
            before = _structures[model] = structure, expected, tuple(_containers(modules, expected, frozenset()))
        return Layout(names, modules, before[1], before[2], regions, frozenset())
    hidden = frozenset(name for name in modules if any(below(name, top) for top in regions) or any(at_or_below(name, top) for top in fast))
    expected = tuple(_expected(modules))
    return Layout(names, modules, expected, tuple(_containers(modules, expected, hidden)), regions, hidden)


# By model: its modules' names, classes and dimensions of their parameters, and what follows from them. It holds no module.
_structures: WeakKeyDictionary[nn.Module, tuple[list[Any], tuple[str, ...], tuple[str, ...]]] = WeakKeyDictionary()


def modules_by_name(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """What ``model.named_modules()`` yields, in a loop: its generators within generators took half of the time of entering a context."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        found.append((name, module))
        if module._modules:
            prefix = f"{name}." if name else ""
            parts = [(prefix + part, child) for part, child in module._modules.items() if child is not None]
            waiting += parts[::-1]
    if any(kind.named_modules is not nn.Module.named_modules for kind in {type(module) for _, module in found}):
        return list(model.named_modules())
    return found


_HOLDING = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_of_library(module: nn.Module | None) -> bool:
    """Whether a module's class belongs to a library whose attention was checked class by class."""
    return type(module).__module__.partition(".")[0] in CHECKED_LIBRARIES


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` is between the caller and this module's forward."""
    return is_compiled_wrapper(module) or module._compiled_call_impl is not None


def is_scripted(module: nn.Module) -> bool:
    """Whether a module is TorchScript: it accepts no hooks, and runs its parts without calling them."""
    return isinstance(module, torch.jit.ScriptModule)


def is_compiled_wrapper(module: nn.Module) -> bool:
    """Whether this is what ``torch.compile(module)`` returns (known without importing the compiler)."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def _expected(modules: dict[str, nn.Module]) -> Iterator[str]:
    candidates = [name for name, module in modules.items() if _looks_like_attention(module)]
    for name, following in zip(candidates, [*candidates[1:], None], strict=False):
        if following is None or not below(following, name):  # innermost: BertSelfAttention, not BertAttention right before it
            yield name


def _looks_like_attention(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return True
    if not named_after_attention(type(module).__name__):
        return False
    if any(parameter is not None and parameter.ndim >= 2 for parameter in module._parameters.values()):
        return True
    matrices = (parameter for parameter in module.parameters() if parameter.ndim >= 2)
    return next(matrices, None) is not None and next(matrices, None) is not None


def _containers(modules: dict[str, nn.Module], expected: Sequence[str], hidden: frozenset[str]) -> Iterator[str]:
    yield ""
    stacks: dict[str, bool] = {}
    for name, module in modules.items():
        if not name or name in hidden or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            continue
        if _is_block(name, expected, stacks):
            continue  # a block of a stack: its forward is part of its container's
        if sum(below(layer, name) for layer in expected) > 1:
            yield name


def _is_block(name: str, expected: Sequence[str], stacks: dict[str, bool]) -> bool:
    """Whether a module is in a numbered stack of several that attend; a number alone (nn.Sequential of one model) is not enough.

    ``stacks`` keeps what was found of each stack: without it, this question took most of the time of entering a context for a large model.
    """
    parts = name.split(".")
    for at, part in enumerate(parts):
        if part.isdigit():
            stack = ".".join(parts[:at])
            if stack not in stacks:
                stacks[stack] = len({layer[len(stack) + bool(stack) :].split(".")[0] for layer in expected if below(layer, stack)}) > 1
            if stacks[stack]:
                return True
    return False


def owner_of(layout: Layout, name: str) -> str:
    """The module an operator inside ``name`` belongs to: the innermost one that has parameters (``nn.Softmax`` has none)."""
    while name and not _has_parameters(layout.modules[name]):
        name = name.rpartition(".")[0]
    return name


def _has_parameters(module: nn.Module) -> bool:
    """Whether a module or one inside it has parameters; asked of every owner in each capture, so without torch's generators."""
    return any(parameter is not None for parameter in module._parameters.values()) or any(
        child is not None and _has_parameters(child) for child in module._modules.values()
    )


def below(name: str, top: str) -> bool:
    """Whether one qualified name lies inside another."""
    return name != top and (not top or name.startswith(top + "."))


def at_or_below(name: str, top: str) -> bool:
    """Whether one qualified name is another or lies inside it."""
    return name == top or below(name, top)
