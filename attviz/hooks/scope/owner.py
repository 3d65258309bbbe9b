"""Which module an attention call belongs to, found on the Python stack, and which sequences that module was given."""

from __future__ import annotations

from attviz.hooks.scope import stack
from attviz.hooks.scope.evidence import Situation, places_of_others, situation_of
from attviz.hooks.scope.model_map import Layout, is_compiled_wrapper, owner_of


class Locator:
    """Finds the owner of the call running on this thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._owner_of: dict[str, str] = {}

    def place(self, hooked: str | None, situation: Situation) -> tuple[str | None, Situation, str | None, int]:
        """The owner, the other sequences it was given, the compiled region the call came from, and which call of the owner runs.

        Args:
            hooked: The module whose hook was entered last, if any.
            situation: What that hook saw of the call.
        """
        owner, region = self.innermost()
        if owner is None and region is None:
            return hooked, situation, None, 0  # a replica: its hooks know its name, its identity is new
        if owner is None:
            return None, (), region, 0
        return owner, *self._running(owner, hooked, situation)

    def innermost(self) -> tuple[str | None, str | None]:
        """(owner, None) for a call whose module is known, (None, region) for one from a compiled region with several modules."""
        found: str | None = None
        for running in stack.running_modules():
            compiled = is_compiled_wrapper(running.module)
            module = running.module._orig_mod if compiled else running.module
            name = self._layout.names.get(id(module))
            if found is not None and not (compiled and name == found):
                break  # the innermost module runs as it was written
            if name is None:
                continue
            if compiled or getattr(module, "_compiled_call_impl", None) is not None:
                inside = self._layout.expected_in(name)
                return (inside[0], None) if len(inside) == 1 else (None, name)
            found = name  # unless the next one out turns out to be its compiled wrapper
        return (None, None) if found is None else (self._owner(found), None)

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
