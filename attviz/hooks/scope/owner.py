"""Which module an attention call belongs to, found on the Python stack, and which sequences that module was given."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from attviz.hooks.scope import stack
from attviz.hooks.scope.evidence import COMPILED, Situation, places_of_others, situation_of
from attviz.hooks.scope.model_map import Layout, is_compiled_wrapper, owner_of


class Found(NamedTuple):
    """Where a call comes from.

    Attributes:
        owner: The module it belongs to; None if that is not known.
        situation: The other sequences that module was given.
        region: The compiled region of a call whose module is not known.
        identity: Which call of the owner runs.
        node: The node of the compiled graph that runs it, if there is one.
        compiled: Whether the owner's code was compiled, with its graph or without.
        running: The module whose graph that is.
    """

    owner: str | None
    situation: Situation
    region: str | None
    identity: int
    node: Any = None
    compiled: bool = False
    running: nn.Module | None = None


class Locator:
    """Finds the owner of the call running on this thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._owner_of: dict[str, str] = {}

    def place(self, hooked: str | None, situation: Situation) -> Found:
        """Where the running operator belongs.

        Args:
            hooked: The module whose hook was entered last, if any.
            situation: What that hook saw of the call.
        """
        owner, region, inlined = self._located()
        if inlined is not None:
            node, identity, running = inlined
            return Found(owner, situation if owner == hooked else (COMPILED,), None, identity, node, True, running)
        if owner is None and region is None:
            return Found(hooked, situation, None, 0)  # a replica: its hooks know its name, its identity is new
        if owner is None:
            return Found(None, (), region, 0)
        node, _ = at = stack.compiled_node() or (None, None)
        return Found(owner, *self._running(owner, hooked, situation), node, at != (None, None))

    def innermost(self) -> tuple[str | None, str | None]:
        """(owner, None) for a call whose module is known, (None, region) for one from a compiled region with several modules."""
        return self._located()[:2]

    def _located(self) -> tuple[str | None, str | None, tuple[Any, int, nn.Module] | None]:
        found: str | None = None
        for running in stack.running_modules():
            compiled = is_compiled_wrapper(running.module)
            module: Any = running.module._orig_mod if compiled else running.module
            name = self._layout.names.get(id(module))
            if found is not None and not (compiled and name == found):
                break  # the innermost module runs as it was written
            if name is None:
                continue
            inlined = self._inlined(module) if found is None else None
            if inlined is not None:
                return inlined
            if compiled or getattr(module, "_compiled_call_impl", None) is not None:
                inside = self._layout.expected_in(name)
                return (inside[0], None, None) if len(inside) == 1 else (None, name, None)
            found = name  # unless the next one out turns out to be its compiled wrapper
        return (None, None, None) if found is None else (self._owner(found), None, None)

    def _inlined(self, module: nn.Module) -> tuple[str, None, tuple[Any, int, nn.Module]] | None:
        """The owner of an operator in the graph that a module's forward was compiled to; None if no graph tells."""
        at = stack.compiled_node()
        if at is None or at[0] is None:
            return None
        from attviz.hooks.scope.graph import module_of  # of compiled code alone

        inner = module_of(at[0], module)
        name = None if inner is None else self._layout.names.get(id(inner[0]))
        if inner is None or name is None:
            return None
        return self._owner(name), None, (at[0], hash((inner[1], at[1])), module)

    def on_stack(self) -> bool:
        """Whether a module of the model is being called on this thread: in compiled code and on other threads no container hook runs."""
        names = self._layout.names
        for running in stack.running_modules():
            module = running.module._orig_mod if is_compiled_wrapper(running.module) else running.module
            if id(module) in names:
                return True
        return False

    def _running(self, owner: str, hooked: str | None, situation: Situation) -> tuple[Situation, None, int]:
        """The inputs of the running call of a module, which may have no hook yet."""
        module = self._layout.modules[owner]
        call = next((running for running in stack.running_modules() if running.module is module), None)
        if call is None:
            return situation if owner == hooked else (), None, 0
        return situation_of(places_of_others(module), call.args, call.kwargs), None, call.identity

    def _owner(self, name: str) -> str:
        if name not in self._owner_of:
            owner = owner_of(self._layout, name)
            # the fast path of an encoder layer runs its attention without calling it
            inside = self._layout.expected_in(owner) if owner in self._layout.hidden else ()
            self._owner_of[name] = inside[0] if len(inside) == 1 else owner
        return self._owner_of[name]
