"""How many tokens a cache holds: transformers' caches, tuples of tensors, and an open table for other caches.

A cache is recognised by what it is, whatever its parameter is called: transformers has renamed that three times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from attviz.names import CACHE_LAYERS, CACHE_LENGTH, CACHE_LIMIT, CACHE_OF_ITSELF, USES_CACHE
from attviz.registry import Registry, named_after


@dataclass(frozen=True, slots=True)
class CacheKind:
    """A kind of key-value cache that your model uses.

    Attributes:
        matches: Whether the entry covers an argument of a forward, given the name of its parameter and its value.
        length: Tokens in the cache *before* this forward: an int, or a one-element tensor if only the device knows it. None for a
            cache that holds no keys.
        is_static: Whether it returns buffers of fixed length, with unused slots after the last key (hidden by the mask). In such
            buffers the queries' own keys start at ``length``; in a growing cache, or one that keeps only the last keys, they come last.
        name: Its name in the table; by default that of the function ``length``.
    """

    matches: Callable[[str, Any], bool]
    length: Callable[[Any], "int | Tensor | None"]
    is_static: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", named_after(self.length))


class Cached(NamedTuple):
    """What a forward knows from its cache.

    Attributes:
        past: Tokens it held before.
        static: Whether it returns buffers of fixed length.
        present: Whether there is one.
        registered: Whether an entry of the table recognised it.
    """

    past: int | Tensor
    static: bool
    present: bool
    registered: bool = False


_table: Registry[CacheKind] = Registry("cache")


def register_cache(kind: CacheKind, *, replace: bool = False) -> CacheKind:
    """Register a kind of cache, so that each decode step over it finds its own keys; the latest entry that matches is used.

    Not needed for the caches of transformers, objects with ``get_seq_length()``, and ``(key, value)`` tuples.

    Args:
        kind: The entry.
        replace: Replace an entry of the same name, which is refused otherwise.

    Returns:
        The same entry.

    Raises:
        ArgumentError: If the name is taken.

    Example:
        >>> class Ring:
        ...     used = 3
        >>> kind = register_cache(CacheKind(lambda name, value: isinstance(value, Ring), lambda cache: cache.used, name="ring"))
        >>> cached({"memory": Ring()})
        Cached(past=3, static=False, present=True, registered=True)
        >>> unregister_cache(kind)
    """
    return _table.add(kind, replace=replace)


def unregister_cache(kind: CacheKind) -> None:
    """Take an entry out of the table again."""
    _table.remove(kind)


def cached(given: Mapping[str, Any]) -> Cached:
    """What the arguments of a forward, by name, say about a cache."""
    for kind in _table.entries:
        for name, value in given.items():
            if value is not None and kind.matches(name, value) and (held := kind.length(value)) is not None:
                return Cached(_settled(held), kind.is_static, True, registered=True)
    for value in given.values():
        length = _cached_length(value)
        if length is None:
            continue
        layers = getattr(getattr(value, CACHE_OF_ITSELF, value), CACHE_LAYERS, ())
        if isinstance(length, Tensor):  # a static cache counts on its device, and in place
            return Cached(_settled(length), True, True)
        return Cached(int(length), any(hasattr(layer, CACHE_LIMIT) for layer in layers), True)
    return Cached(0, False, bool(given.get(USES_CACHE)))


def _settled(length: int | Tensor) -> int | Tensor:
    """A copy of its present value; a tensor stays on its device."""
    if isinstance(length, Tensor):
        return int(length) if length.device.type == "cpu" else length.clone()
    return int(length)


def _cached_length(value: Any) -> int | Tensor | None:
    """Tokens in a cache; None if this is not a cache, or has no keys (that of a state-space model)."""
    if value is None or isinstance(value, (Tensor, str, int)):
        return None
    if isinstance(value, (tuple, list)):
        return _length_of_pairs(value)
    ask = getattr(value, CACHE_LENGTH, None)
    if not callable(ask):
        return None
    try:
        length: int | Tensor = ask()
    except ValueError:
        return None
    return length


def _length_of_pairs(value: tuple[Any, ...] | list[Any]) -> int | None:
    """Tokens in a hand-written cache: ``(key, value)``, or one such pair for each layer."""
    pair = value[0] if value and isinstance(value[0], (tuple, list)) else value
    if len(pair) < 2 or not all(isinstance(tensor, Tensor) for tensor in pair[:2]):
        return None
    key, other = pair[0], pair[1]
    alike = key.ndim == other.ndim == 4 and key.shape[:3] == other.shape[:3] and key.is_floating_point()
    return int(key.shape[-2]) if alike else None
