"""Follows calls that were never followed, and looks up what is known about each attention."""

from __future__ import annotations

from typing import Any

from torch import nn

from attviz.calls import AttentionCall
from attviz.calls.fused import FusedCall
from attviz.calls.layouts import layout_of
from attviz.calls.scored import ScoredCall
from attviz.calls.softmax import SoftmaxCall
from attviz.hooks.scope.evidence import (
    Followed,
    Situation,
    idle_before,
    known,
    may_follow,
    needs_following,
    places_of_others,
    situation_of,
    unshown,
    was_followed,
)
from attviz.hooks.scope.follow.answer import Answer
from attviz.hooks.scope.follow.trace import flat_tensors
from attviz.hooks.scope.model_map import Layout, is_of_library
from attviz.hooks.scope.owner import Locator
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.graphs import eager_stance
from attviz.hooks.session.grouped import unpacked
from attviz.hooks.tap.hub import thread_state
from attviz.hooks.tap.operators import Operator
from attviz.hooks.tap.operators.softmax import dimension
from attviz.names import without_softmax

_BY_HAND = (
    "it weighs tokens with exponentials that no attention operator showed, or with rows that sum to one (a softmax written by hand, "
    "log_softmax().exp(), sparsemax); torch.softmax or F.scaled_dot_product_attention in its place can be read"
)
_PLAIN = (
    "it weighs tokens by products of tokens without a softmax (sigmoid, linear attention), so their rows are no probabilities and there is "
    "no diagonal"
)


class Following:
    """How one capture gathers evidence and looks it up.

    Attributes:
        untold: Modules for which the evidence is not enough, with what was seen.
        layers: Modules that were followed in a situation; looked up first, because every attention of every forward asks.
    """

    def __init__(self, layout: Layout, locator: Locator, skipped: dict[str, str]) -> None:
        self._layout, self._locator, self._skipped = layout, locator, skipped
        self.untold: dict[str, str] = {}
        # what was looked up before, for every attention of every forward asks: by the identity of modules that the layout keeps alive
        self.layers: set[tuple[str, Situation]] = set()
        self._models: set[tuple[int, Situation]] = set()
        self._others: dict[int, tuple[tuple[int, str], ...]] = {}
        self._answers: dict[tuple[int, Situation, str, int], Answer] = {}

    def model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Followed | None:
        """Follow a forward of the whole model, if none has been followed yet."""
        others = self._others.get(id(module))
        if others is None:
            others = self._others[id(module)] = places_of_others(module)
        situation = situation_of(others, args, kwargs)
        if (id(module), situation) in self._models:
            return None
        if not needs_following(module, situation):
            self._tell_unshown(module, situation)
            self._models.add((id(module), situation))
            return None
        if not self._allowed(args, kwargs):
            return None
        return self._begin(module, situation, args, kwargs)

    def layer(self, name: str, situation: Situation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Followed | None:
        """Follow a call of an attention module, if none has been followed in this situation."""
        module = self._layout.modules[name]
        if was_followed(module, situation):
            self._tell_unshown(module, situation)
            self.layers.add((name, situation))
            return None
        return self._begin(module, situation, args, kwargs) if self._allowed(args, kwargs) else None

    def finish(self, followed: Followed, completed: bool) -> None:
        """End the followed call and record what it showed."""
        followed.finish(completed)
        self.layers.clear()
        self._models.clear()
        self._answers.clear()
        for owner, why in followed.changed(self._layout.names):
            if layout_of(self._layout.modules[owner]) is None:  # else the user said which softmax to read
                self.untold.setdefault(owner, why)
        followed.unshown(self._layout.modules)
        self._tell_unshown(followed.module, followed.situation)

    def _tell_unshown(self, module: nn.Module, situation: Situation) -> None:
        """Say, in every capture, where tokens are weighed without an attention operator."""
        for owner, as_softmax in unshown(module, situation):
            name = self._layout.names.get(id(owner))
            if name is None or self._layout.from_library(name) or layout_of(owner) is not None:
                continue
            if as_softmax:
                self.untold.setdefault(name, _BY_HAND)
            else:
                self._skipped.setdefault(name, _PLAIN)

    def answer(
        self,
        followed: Followed | None,
        operator: Operator,
        call: AttentionCall,
        module: nn.Module,
        situation: Situation,
        ordinal: int,
        context: TokenContext | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Answer | None, bool]:
        """What is known about the running attention, None if it was not followed; and whether this very call showed it."""
        key = (id(module), situation, operator.name, ordinal)
        before = self._answers.get(key)
        if before is None:
            before = known(module, situation, operator.name, ordinal)
            if before is not None and not before.buffer:
                self._answers[key] = before
        if followed is None:
            return before, False
        found = self._asked(followed, operator, call, module, situation, ordinal, context, args, kwargs)
        unclear = found is None or found.kind == "unsettled"
        if unclear and before is not None and before.kind == "self" and not before.buffer:
            return before, False
        return found, True

    def _asked(
        self,
        followed: Followed,
        operator: Operator,
        call: AttentionCall,
        module: nn.Module,
        situation: Situation,
        ordinal: int,
        context: TokenContext | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Answer | None:
        if isinstance(call, SoftmaxCall):
            if operator.kind != "softmax":
                return followed.ask(module, situation, operator.name, ordinal, args[:2], None)
            return followed.ask(module, situation, operator.name, ordinal, (args[0],), dimension(args, kwargs))
        if isinstance(call, ScoredCall):
            return followed.ask(module, situation, operator.name, ordinal, (call.query, call.key), None)
        if not isinstance(call, FusedCall) or call.query is not args[0] or call.key is not args[1]:
            return None
        if unpacked(call, module, context) is not call:
            return None  # what looks like queries are heads
        return followed.ask(module, situation, operator.name, ordinal, (call.query, call.key), None)

    def idle(self, followed: Followed | None, module: nn.Module, situation: Situation, before: tuple[int, int]) -> str | None:
        """Why a module that was expected to attend, but was not seen to, does not; None if that is not known."""
        named = without_softmax(module)
        if followed is None:
            shown = idle_before(module, situation)
            return shown or (named if is_of_library(module) else None)
        why = named if is_of_library(module) else None
        if followed.follow.broken is None and followed.counts[0] == before[0]:
            if followed.counts[1] == before[1]:
                why = named or f"no softmax and no product of its inputs ran in {type(module).__name__}, so there is no attention matrix"
            why = why or named
        followed.ran(module, situation, why)
        return why

    def _begin(self, module: nn.Module, situation: Situation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Followed:
        followed = Followed(module, situation, args, kwargs)
        followed.follow.where = lambda: None if thread_state.busy else self._locator.innermost()[0]
        return followed

    def _allowed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether following is possible: not into compiled code, and not on an empty batch."""
        as_written = not self._layout.regions or eager_stance()
        return as_written and may_follow() and all(tensor.numel() for tensor in flat_tensors((args, kwargs)))
