"""The layers that the user selected."""

from __future__ import annotations

import difflib
import fnmatch
import operator

from attviz.errors import ArgumentError, UnknownLayerError
from attviz.hooks.scope.model_map import Layout
from attviz.selecting import Layers, listed, matches


class Selection:
    """The layers that the user selected: names (of modules or containers), glob patterns, indices or slices; None means all."""

    def __init__(self, wanted: Layers, layout: Layout) -> None:
        entries: list[int | str | slice] | None = listed(wanted)
        self.named: tuple[str, ...] = ()
        self.vouched: frozenset[str] = frozenset()  # named one by one, without wildcards: the user says that they are self-attention
        self._patterns: tuple[str, ...] | None = None
        if entries is None:
            return
        patterns = [pattern for entry in entries for pattern in self._resolve(entry, layout)]
        if not patterns:
            raise UnknownLayerError(f"capture: layers={wanted!r} selects nothing. Pass None for all layers.")
        self._patterns = tuple(patterns)
        whole = {layer for pattern in patterns if not _is_glob(pattern) for layer in layout.modules if layer == pattern}
        self.vouched = frozenset(whole)
        self.named = tuple(layer for layer in layout.modules if layer in whole or any(_by_glob(layer, each) for each in patterns))

    def __contains__(self, name: str) -> bool:
        return self._patterns is None or any(matches(name, pattern) for pattern in self._patterns)

    @staticmethod
    def _resolve(entry: str | int | slice, layout: Layout) -> tuple[str, ...]:
        expected = layout.expected
        if isinstance(entry, slice):
            return tuple(expected[entry])
        if not isinstance(entry, str):
            return (_by_index(expected, entry),)
        if any(matches(name, entry) for name in layout.modules):
            return (entry,)
        near = difflib.get_close_matches(entry, expected or list(layout.modules), n=3, cutoff=0.3)
        shown = near or list(expected[:3])
        raise UnknownLayerError(
            f"capture: no module matches layer {entry!r}. Near: {', '.join(map(repr, shown)) or 'none'}; "
            f"{len(expected)} attention modules in total (cap.layers lists them)."
        )


def _is_glob(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")


def _by_glob(name: str, pattern: str) -> bool:
    """Whether a pattern with wildcards matches this very module, and is not just a catch-all."""
    return _is_glob(pattern) and pattern.strip("*.") != "" and fnmatch.fnmatchcase(name, pattern)


def _by_index(expected: tuple[str, ...], entry: int) -> str:
    try:
        index = operator.index(entry)
    except TypeError:
        raise ArgumentError(f"capture: layers must be names, patterns, indices or slices, got {entry!r}.") from None
    if not -len(expected) <= index < len(expected):
        raise UnknownLayerError(f"capture: layer index {index} is out of range: the model has {len(expected)} attention modules.")
    return expected[index]
