"""Whether a module attends to another sequence than its own: by its name, by a flag, or by what it is called with."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from attviz.hooks.scope.tokens import parameter_names

_CROSS = re.compile(r"(^|\.)(cross_?attn|cross_?attention|encoder_attn|EncDecAttention|enc_dec_attn|multihead_attn)(\.|$)", re.IGNORECASE)
_CROSS_CLASS = re.compile(r"cross", re.IGNORECASE)
_TWO_SEQUENCES = frozenset(
    "key_value_states encoder_hidden_states cross_hidden_states encoder_output encoder_out enc_output context memory".split()
)  # names of a parameter that brings another sequence to attend to; of nn.MultiheadAttention it is the key


def is_cross_attention(name: str, module: nn.Module) -> bool:
    """Whether the name or a flag of a module says that it attends to another sequence."""
    if getattr(module, "is_cross_attention", False) is True or getattr(module, "is_cross_attn", False) is True:
        return True
    return bool(_CROSS.search(name) or _CROSS_CLASS.search(type(module).__name__))


def places_of_others(module: nn.Module) -> tuple[tuple[int, str], ...]:
    """Place and name of the parameters through which a module can be given another sequence than its own to attend to."""
    names = {"key"} if isinstance(module, nn.MultiheadAttention) else _TWO_SEQUENCES
    return tuple((place, name) for place, name in enumerate(parameter_names(module)) if name in names)


def given_two_sequences(others: tuple[tuple[int, str], ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call attends to another sequence than its own, by its arguments."""
    own = args[0] if args else kwargs.get("hidden_states", kwargs.get("x", kwargs.get("query")))
    for place, name in others:
        other = args[place] if place < len(args) else kwargs.get(name)
        if isinstance(other, Tensor) and other is not own:
            return True
    return False
