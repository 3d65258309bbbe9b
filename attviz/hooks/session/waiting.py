"""The small calls of one forward that wait for its end, and how they are finished."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils import _python_dispatch

from attviz.calls.fused import FusedCall
from attviz.calls.together import Share, Together
from attviz.errors import CaptureError
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.pending import PendingRecord
from attviz.kernels import on_gpu
from attviz.modes import outside_inference

if TYPE_CHECKING:
    from attviz.hooks.session.short import Way

Small = tuple["Way", int, "TokenContext | None", Together, int]
"""A call that took the short way: its way, which call of its layer it was, its tokens, and where its diagonal is made."""

_NOTHING = nullcontext()


class Waiting:
    """The small calls of one forward.

    Attributes:
        count: Number of calls.
        lost: Calls whose query or key was overwritten before the end: where their diagonals are computed, and their layer.
    """

    __slots__ = ("_last", "_open", "count", "lost")

    def __init__(self) -> None:
        # on a CPU: kind and number of keys of the call before, and its group, which is almost always that of the next
        self._last: tuple[int, int, tuple[Together, list[Way]]] | None = None
        self._open: dict[tuple[int, int, bool, bool, int], tuple[Together, list[Way]]] = {}
        self.lost: list[tuple[Together, int, str]] = []
        self.count = 0

    def add(self, way: Way, visit: int, context: TokenContext | None, offset: int | Tensor, call: FusedCall) -> Small:
        """Add a call from inside its operator."""
        kv_len, last = call.key.shape[2], self._last
        past = None if type(offset) is int else offset
        if last is not None and past is None and last[0] == way.kind and last[1] == kv_len:
            group = last[2]
        else:
            group = self._group(way, call.query, kv_len, past)  # type: ignore[arg-type]
        together, ways = group
        ways.append(way)
        self.count += 1
        with_last = call.bias is not None and context is not None and context.mask is not None
        first = offset if past is None else 0
        position = together.add(call.query, call.key, call.logsumexp, first, call.bias, with_last and past is None)  # type: ignore[arg-type]
        if together.full:
            self._open = {kind: other for kind, other in self._open.items() if other is not group}
            self._close(together, ways)
        return way, visit, context, together, position

    def _group(self, way: Way, query: Tensor, kv_len: int, past: Tensor | None) -> tuple[Together, list[Way]]:
        """The calls that a call can be finished with."""
        # kept where launches are what costs; an inference tensor does not say that it was overwritten
        kept = on_gpu(query) and way.lasting is not False and not query.is_inference()
        at_once = not kept or way.lasting is None
        kind = way.kind, kv_len, kept, at_once, id(past)
        group = self._open.get(kind)
        if group is None:
            together = Together(way.rows, way.scale, kv_len, kept=kept, at_once=at_once, packed=way.packed, past=past)
            group = self._open[kind] = together, []
        if not on_gpu(query) and past is None:
            self._last = way.kind, kv_len, group
        return group

    def close(self) -> None:
        """End the forward: finish the work and release everything kept."""
        kept = [group for group in self._open.values() if group[0].kept]
        self._open, self._last = {}, None
        if not kept:
            return
        device = kept[0][1][0].device.type
        autocast = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING
        with outside_inference(), torch.no_grad(), autocast, _without_modes():
            for together, ways in kept:
                self._close(together, ways)

    def _close(self, together: Together, ways: list[Way]) -> None:
        changed = together.close()
        for number, way in enumerate(ways):
            if number in changed:
                self._lose(together, number, way)
            elif way.lasting is None and together.kept:
                way.learn(True)

    def _lose(self, together: Together, number: int, way: Way) -> None:
        if way.lasting:
            self.lost.append((together, number, way.layer))
        way.learn(False)

    def without_lost(self, calls: list[PendingRecord | Small]) -> list[PendingRecord | Small]:
        """The calls of a forward without those that were overwritten."""
        lost = {(together, number) for together, number, _ in self.lost}
        return [call for call in calls if not (isinstance(call, tuple) and call[3:] in lost)]

    def error(self) -> CaptureError:
        """The error about layers whose query or key was overwritten while waiting."""
        layers = [layer for *_, layer in self.lost]
        names = ", ".join(map(repr, layers[:4])) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
        return CaptureError(
            f"capture: the query or key of {names} was overwritten before the forward ended. That had not happened in "
            "earlier forwards, so the diagonal was to be computed at the end and is now lost.\n"
            "  Cure: run the forward again in a new capture; these layers are now read immediately."
        )


def pending_of(small: Small, index: int, step: int) -> PendingRecord:
    """What is kept of a small call, in the same form as other calls."""
    way, _, context, together, position = small
    hidden = None if way.biased or together.past is not None else way.causal
    return PendingRecord(way.layer, index, step, way.operator.name, way.evidence, context, Share(together, position), hidden)


def _without_modes() -> AbstractContextManager[object]:
    """Hide our arithmetic, which runs outside the operator here, from other dispatch modes."""
    return _python_dispatch._disable_current_modes() if torch._C._len_torch_dispatch_stack() else _NOTHING
