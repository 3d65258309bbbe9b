"""Attention that runs as a Python function and bypasses the dispatcher: compiled flex_attention, kernels from the hub.

Such a function is replaced, where its callers look it up, while a capture that needs it is open. The replacement calls the original with
the same arguments, returns its result unchanged, and shows both to the listeners of the tap. In traced code it does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from attviz.hooks.tap import hub
from attviz.hooks.tap.hub import Place
from attviz.hooks.tap.operators import Operator

Function = Callable[..., Any]


class _Held(NamedTuple):
    place: Place
    original: Function
    replacement: Function


_held: dict[tuple[int, str], _Held] = {}


def replace(wanted: Iterable[Place]) -> None:
    """Replace the functions at these places, and restore all others; the caller holds the lock of the hub. Idempotent."""
    places = {(id(place.owner), place.attribute): place for place in wanted}
    for key in tuple(_held):
        if key not in places:
            place, original, replacement = _held[key]
            if vars(place.owner).get(place.attribute) is replacement:  # else somebody put another there meanwhile: theirs stays
                _put(place, original)
            del _held[key]
    for key, place in places.items():
        if key not in _held:
            original = vars(place.owner)[place.attribute]
            replacement = place.around(original)
            _held[key] = _Held(place, original, replacement)  # holds the owner too: its id stays its own
            _put(place, replacement)


def installed() -> bool:
    """Whether any function is replaced (for tests of hygiene)."""
    return bool(_held)


def _put(place: Place, function: Function) -> None:
    if isinstance(place.owner, torch.nn.Module):
        vars(place.owner)[place.attribute] = function  # not setattr, which looks for parameters and modules
    else:
        setattr(place.owner, place.attribute, function)


def watched(operator: Operator, function: Function) -> Function:
    """Create a function that calls ``function`` and shows arguments and result to the listeners.

    What runs inside it, attention or not, is hidden from the tap: only the outermost call is recorded.

    Args:
        operator: How to read a call as attention; its dispatch keys are not used. ``prepare`` and ``restore`` work as in the tap.
        function: The original.
    """
    prepare, restore, thread = operator.prepare, operator.restore, hub.thread_state

    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or thread.busy or torch._C._is_tracing():
            return function(*args, **kwargs)
        listeners = [listener for listener in hub.listeners if listener.listening()]
        if not listeners:
            return function(*args, **kwargs)
        asked_args, asked_kwargs = (args, kwargs) if prepare is None else prepare(args, kwargs)
        thread.busy = True
        try:
            result = function(*asked_args, **asked_kwargs)
            with torch.no_grad():  # above autograd, other than in the tap: nothing of ours may join the graph
                for listener in listeners:
                    listener.observe(operator, args, kwargs, result)
            return result if restore is None else restore(args, kwargs, result)
        finally:
            thread.busy = False

    run.__wrapped__ = function  # type: ignore[attr-defined]  # callers inspect the signature
    return run
