"""The book-keeping of one forward, and the names of calls that come out of compiled regions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attviz.hooks.scope.evidence import is_cross_attention
from attviz.hooks.scope.model_map import Layout
from attviz.hooks.scope.selection import Selection

DROP = "<dropped>"  # in the names of a step: this call turned out to be cross-attention, or was not selected


@dataclass(slots=True, eq=False)
class Step:
    """One forward on one thread.

    Attributes:
        handle: What the sink gave for it.
        count: Calls handed to the sink so far.
        regions: For each compiled region the place of its attention calls in the sink; None for one that has no diagonal.
        identity: Of a step that no container announced: the outermost module call on the stack.
        sites: Of such a step: the call sites seen; a site seen twice means that a new forward began.
        rolled_back: Whether the forward raised.
    """

    handle: Any
    count: int = 0
    regions: dict[str, list[int | None]] = field(default_factory=dict)
    identity: int = 0
    sites: set[object] = field(default_factory=set)

    def names(self, layout: Layout, selection: Selection, missed: dict[str, str]) -> dict[int, str | None]:
        """Layers of the calls from compiled regions, by place; None where no name can be trusted.

        Inside a region no hook runs. Compiled code keeps the order of its attention calls, so their order is the order of
        registration if, and only if, there are as many calls as modules (or a multiple: the region ran several times).
        """
        names: dict[int, str | None] = {}
        for region, places in self.regions.items():
            inside = layout.expected_in(region)
            trusted = bool(inside) and len(places) % len(inside) == 0
            for index, place in enumerate(places):
                name = inside[index % len(inside)] if trusted else None
                cross = name is not None and is_cross_attention(name, layout.modules[name])
                trusted = trusted and (cross or place is not None)
                if place is not None:
                    names[place] = DROP if cross or (name is not None and name not in selection) else name
            if not trusted:
                names.update({place: None for place in places if place is not None})
            if len(places) < len(inside):
                missed.setdefault(
                    region or "the model",
                    f"compiled: {len(places)} attention calls passed for {len(inside)} attention modules; an eager softmax and "
                    "flex_attention are fused into the graph by the compiler, and an attention whose output is unused is removed",
                )
        return names
