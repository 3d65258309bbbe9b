"""One forward: its calls in order of execution, and the names of those from compiled regions."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from torch import Tensor

from attviz.hooks.scope.model_map import Layout
from attviz.hooks.scope.selection import Selection
from attviz.hooks.session.pending import PendingCross, PendingRecord
from attviz.hooks.session.reasons import LOST
from attviz.hooks.session.waiting import Small, Waiting, pending_of
from attviz.names import is_cross_attention
from attviz.readings import Tokens
from attviz.records import CrossRecord, DiagonalRecord

DROP = "<dropped>"  # in the names of a step: this call turned out to be cross-attention, or was not selected


@dataclass(slots=True, eq=False)
class Step:
    """One forward on one thread.

    Attributes:
        number: Number of forwards seen before it.
        sample: Number of forwards recorded before it: the clock of ``Reading.every``.
        past: Tokens its cache held before it.
        beams: Whether it is a step of a beam search, which reorders rows between steps.
        calls: Its self-attentions; those that took the short path are in a form that costs nothing until it is read.
        crossing: Its cross-attentions, if they were requested.
        visits: How often each layer was called in it (a shared layer: several times).
        tokens: What is known about the tokens, by context and shape; dropped when the forward ends.
        regions: For each compiled region, the indices of its attention calls in ``pending``; None for a call without a diagonal.
        waiting: Its small calls, which are finished when it ends.
        plain: Whether only the diagonals are requested, and not before it ends.
        index: Maps a layer and the number of its call to the position in the order of execution.
        sites: For a step that no container announced: the call sites seen; a repeated site means that a new forward began.
    """

    number: int
    sample: int = 0
    past: int | Tensor = 0
    beams: bool = False
    calls: list[PendingRecord | Small] = field(default_factory=list)
    crossing: list[PendingCross] = field(default_factory=list)
    visits: dict[str | None, int] = field(default_factory=dict)
    tokens: dict[tuple[object, ...], Tokens] = field(default_factory=dict)
    regions: dict[str, list[int | None]] = field(default_factory=dict)
    sites: set[object] = field(default_factory=set)
    waiting: Waiting = field(default_factory=Waiting)
    plain: bool = False
    index: Callable[[str | None, int], int] | None = None

    @property
    def pending(self) -> list[PendingRecord]:
        """Its self-attentions, all in one form."""
        calls = self.calls
        for number, call in enumerate(calls):
            if isinstance(call, tuple):
                assert self.index is not None
                calls[number] = pending_of(call, self.index(call[0].layer, call[1]), self.number)
        return calls  # type: ignore[return-value]

    def records(self) -> tuple[DiagonalRecord, ...]:
        """All finished records."""
        return tuple(pending.record() for pending in self.pending)

    def cross_records(self) -> tuple[CrossRecord, ...]:
        """All finished records of cross-attention."""
        return tuple(pending.record() for pending in self.crossing)

    def names(
        self, layout: Layout, selection: Selection, inlined: Container[str], missed: dict[str, str], skipped: dict[str, str]
    ) -> dict[int, str | None]:
        """Layers of the calls from compiled regions, by index; None if no name can be trusted. Those ``inlined`` were named by their graph.

        Inside a region no hook runs. Compiled code keeps the order of its attention calls, so their order is the order of
        registration if, and only if, there are as many calls as modules (or a multiple: the region ran several times).
        """
        names: dict[int, str | None] = {}
        for region, calls in self.regions.items():
            inside = [name for name in layout.expected_in(region) if name not in inlined]
            trusted = bool(inside) and len(calls) % len(inside) == 0
            crossing: list[str] = []
            for turn, index in enumerate(calls):
                name = inside[turn % len(inside)] if trusted else None
                cross = name is not None and is_cross_attention(name, layout.modules[name])
                if cross and name is not None:
                    crossing.append(name)
                trusted = trusted and (cross or index is not None)
                if index is not None:
                    names[index] = DROP if cross or (name is not None and name not in selection) else name
            if trusted:
                skipped.update(dict.fromkeys(crossing, "cross-attention by its name, inside compiled code, so there is no diagonal"))
            else:
                names.update({index: None for index in calls if index is not None})
            lost = sum(index is None for index in calls)
            if lost and not trusted:
                missed.setdefault(region or "the model", f"compiled: {lost} of its attention calls show no diagonal. {LOST}")
            if len(calls) < len(inside):
                missed.setdefault(
                    region or "the model",
                    f"compiled: {len(calls)} attention calls passed for {len(inside)} attention modules; an eager softmax and "
                    "flex_attention are fused into the graph by the compiler, and an attention whose output is unused is removed",
                )
        return names
