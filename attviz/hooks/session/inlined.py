"""Attentions inside compiled code, where no hook says which modules ran: each that is expected must be accounted for."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from weakref import WeakKeyDictionary

from attviz.hooks.scope.graph import modules_in
from attviz.hooks.scope.model_map import Layout, at_or_below
from attviz.hooks.scope.owner import Found
from attviz.hooks.session.reasons import Verdict

_UNSEEN = (
    "compiled: no attention call of it passed, though others of its compiled region did; an eager softmax and flex_attention are fused "
    "into the graph by the compiler, an attention whose output is unused is removed, and a module that does not run has none"
)
_NONE_SEEN = (
    "compiled: none of its attention calls passed; an eager softmax and flex_attention are fused into the graph by the compiler, and an "
    "attention whose output is unused is removed"
)


class Inlined:
    """What was seen of the modules in compiled code.

    Attributes:
        entered: Compiled modules that were called.
        names: Modules that a compiled graph showed to attend.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.entered: set[str] = set()
        self.names: set[str] = set()
        self._regions: dict[str, bool] = {}  # whether some of its code keeps no graph, so that attentions may run unseen
        self._unnamed: set[str] = set()  # regions with calls whose modules are named, if at all, by their order
        self._graphs: WeakKeyDictionary[object, set[int]] = WeakKeyDictionary()  # whose graph it was when it was looked through
        self._ran: set[str | None] = set()
        self._asides: dict[str, str] = {}

    def note(self, found: Found, verdict: Verdict) -> None:
        """Note a call, if the code of its owner was compiled."""
        owner = found.owner
        if found.region is not None and (verdict.accounts or verdict.call is not None):
            self._unnamed.add(found.region)
        if owner is None or not found.compiled:
            return
        for region in self._layout.regions:
            if at_or_below(owner, region):
                self._regions[region] = self._regions.get(region, False) or found.node is None
        if found.node is not None and found.running is not None:
            seen = self._graphs.setdefault(found.node.graph, set())
            if id(found.running) not in seen:
                seen.add(id(found.running))
                self._ran.update(self._layout.names.get(id(module)) for module in modules_in(found.node.graph, found.running))
        if found.node is not None and verdict.accounts:
            self.names.add(owner)
        elif verdict.aside is not None and owner in self._layout.expected:
            self._asides[owner] = verdict.aside

    def close(self, known: AbstractSet[str], skipped: dict[str, str]) -> dict[str, str]:
        """Expected modules of the regions that ran and that nobody knows of, with the reason; those with another softmax are skipped.

        Where every call had a graph, nothing is fused: a module that is in no graph did not run. If nothing at all is known, that is
        said elsewhere.
        """
        unseen: dict[str, str] = {}
        for region in self.entered - self._regions.keys() - self._unnamed if known or self._unnamed else ():
            if not any(at_or_below(name, region) for name in known):
                unseen.update(dict.fromkeys(self._layout.expected_in(region), _NONE_SEEN))
        for region, fuses in self._regions.items():
            for name in self._layout.expected_in(region):
                if name in known or name in self.names:
                    continue
                if name in self._asides:
                    skipped.setdefault(name, self._asides[name])
                elif fuses or name in self._ran:
                    unseen[name] = _UNSEEN
        return unseen
