"""The layers that the user selected."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from attviz.errors import UnknownLayerError
from attviz.hooks.scope.model_map import Layout, below


class Selection:
    """The layers that the user selected: names (of modules or containers), glob patterns or indices; None means all."""

    def __init__(self, wanted: Sequence[str | int] | str | int | None, layout: Layout) -> None:
        entries = [wanted] if isinstance(wanted, (str, int)) else wanted
        self.named: tuple[str, ...] = ()
        self.vouched: frozenset[str] = frozenset()  # named one by one, without wildcards: the user says that they are self-attention
        self._patterns: tuple[str, ...] | None = None
        if entries is None:
            return
        patterns = [self._resolve(entry, layout) for entry in entries]
        if not patterns:
            raise UnknownLayerError("capture: layers=[] selects nothing. Pass None for all layers.")
        self._patterns = tuple(patterns)
        whole = {layer for pattern in patterns if not _is_glob(pattern) for layer in layout.modules if layer == pattern}
        self.vouched = frozenset(whole)
        self.named = tuple(layer for layer in layout.modules if layer in whole or any(_by_glob(layer, each) for each in patterns))

    def __contains__(self, name: str) -> bool:
        return self._patterns is None or any(_matches(name, pattern) for pattern in self._patterns)

    @staticmethod
    def _resolve(entry: str | int, layout: Layout) -> str:
        expected = layout.expected
        if isinstance(entry, int):
            if not -len(expected) <= entry < len(expected):
                raise UnknownLayerError(f"capture: layer index {entry} is out of range: the model has {len(expected)} attention modules.")
            return expected[entry]
        if any(_matches(name, entry) for name in layout.modules):
            return entry
        near = difflib.get_close_matches(entry, expected or list(layout.modules), n=3, cutoff=0.3)
        shown = near or list(expected[:3])
        raise UnknownLayerError(
            f"capture: no module matches layer {entry!r}. Near: {', '.join(map(repr, shown)) or 'none'}; "
            f"{len(expected)} attention modules in total (cap.layers lists them)."
        )


def _is_glob(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")


def _by_glob(name: str, pattern: str) -> bool:
    """Whether a pattern with wildcards names this very module, not all there is."""
    return _is_glob(pattern) and pattern.strip("*.") != "" and fnmatch.fnmatchcase(name, pattern)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern) or below(name, pattern) or fnmatch.fnmatchcase(name, pattern + ".*")
