"""Whether a module attends to another sequence than its own: by its name, by a flag, or by what it is called with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from attviz.hooks.scope.names import CROSS_CLASS, CROSS_FLAGS, CROSS_PATH, OTHER_SEQUENCE, OWN_SEQUENCE
from attviz.hooks.scope.tokens import parameter_names


def is_cross_attention(name: str, module: nn.Module) -> bool:
    """Whether the name or a flag of a module says that it attends to another sequence."""
    if any(getattr(module, flag, False) is True for flag in CROSS_FLAGS):
        return True
    return bool(CROSS_PATH.search(name) or CROSS_CLASS.search(type(module).__name__))


def places_of_others(module: nn.Module) -> tuple[tuple[int, str], ...]:
    """Place and name of the parameters through which a module can be given another sequence than its own to attend to."""
    names = {"key"} if isinstance(module, nn.MultiheadAttention) else OTHER_SEQUENCE
    return tuple((place, name) for place, name in enumerate(parameter_names(module)) if name in names)


def given_two_sequences(others: tuple[tuple[int, str], ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call attends to another sequence than its own, by its arguments."""
    own = args[0] if args else next((kwargs[name] for name in OWN_SEQUENCE if name in kwargs), None)
    for place, name in others:
        other = args[place] if place < len(args) else kwargs.get(name)
        if isinstance(other, Tensor) and other is not own:
            return True
    return False
