"""Which layers, heads and documents the user asked for: the same words for the page, the figures and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar, cast

from attviz.errors import ArgumentError, UnknownLayerError

T = TypeVar("T")
Layers = Iterable[int | str] | int | str | None
"""Indices (negative ones count from the end), names or glob patterns; one or several; None means all."""
Heads = Iterable[int] | int | None
"""Indices; one or several; None means all."""
Documents = Iterable[int | slice] | int | slice | None
"""Indices or slices; one or several; None means all."""


def listed(wanted: Iterable[T] | T | None) -> list[T] | None:
    """One or several as a list, which can be read more than once; None stays None.

    Example:
        >>> listed("encoder.0"), listed(iter([1, 2])), listed(None)
        (['encoder.0'], [1, 2], None)
    """
    if wanted is None:
        return None
    return (
        [cast("T", wanted)] if isinstance(wanted, (int, str, slice)) or hasattr(wanted, "__index__") else list(cast("Iterable[T]", wanted))
    )


def choose_layers(names: Sequence[str], wanted: Layers, who: str = "view") -> list[int]:
    """Indices of the layers that were asked for, each once.

    Args:
        names: The layers there are.
        wanted: Indices, names or glob patterns.
        who: Name of the public function, for messages.

    Raises:
        UnknownLayerError: If one of them matches nothing.

    Example:
        >>> choose_layers(["encoder.0", "encoder.1"], ["*.1", -2])
        [1, 0]
        >>> choose_layers(["encoder.0", "encoder.1"], "encoder.0"), choose_layers(["encoder.0", "encoder.1"], None)
        ([0], [0, 1])
    """
    if wanted is None:
        return list(range(len(names)))
    several: list[int | str] = listed(wanted) or []
    return list(dict.fromkeys(i for one in several for i in _layers(names, one, who)))


def _layers(names: Sequence[str], wanted: int | str, who: str) -> list[int]:
    if isinstance(wanted, str):
        found = [i for i, name in enumerate(names) if name == wanted or fnmatchcase(name, wanted)]
    else:
        found = [range(len(names))[wanted]] if -len(names) <= wanted < len(names) else []
    if not found:
        raise UnknownLayerError(f"{who}: layers={wanted!r} matches none of the {len(names)} layers: {', '.join(names[:12])}.")
    return found


def choose_heads(num_heads: int, wanted: Heads, who: str = "view") -> list[int]:
    """Indices of the heads that were asked for, each once.

    Raises:
        ArgumentError: If a head does not exist.

    Example:
        >>> choose_heads(12, [3, -1, 3]), choose_heads(2, None)
        ([3, 11], [0, 1])
    """
    if wanted is None:
        return list(range(num_heads))
    several: list[int] = listed(wanted) or []
    for head in several:
        if not -num_heads <= head < num_heads:
            raise ArgumentError(f"{who}: heads contains {head}, but the model has heads 0 to {num_heads - 1}.")
    return list(dict.fromkeys(range(num_heads)[head] for head in several))


def choose_documents(count: int, wanted: Documents, who: str = "view") -> list[int]:
    """Indices of the documents that were asked for, each once.

    Raises:
        ArgumentError: If a document does not exist, or none is left.

    Example:
        >>> choose_documents(10, [8, slice(0, 2)]), choose_documents(3, -1), choose_documents(2, None)
        ([8, 0, 1], [2], [0, 1])
    """
    several: list[int | slice] = [slice(None)] if wanted is None else listed(wanted) or []
    places: dict[int, None] = {}
    for one in several:
        if isinstance(one, slice):
            places |= dict.fromkeys(range(count)[one])
        elif -count <= one < count:
            places[range(count)[one]] = None
        else:
            raise ArgumentError(f"{who}: document {one} does not exist: there are documents 0 to {count - 1}.")
    if not places:
        raise ArgumentError(f"{who}: nothing to show: documents={wanted} keeps none of the {count} documents.")
    return list(places)
