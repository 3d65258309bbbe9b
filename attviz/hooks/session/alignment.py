"""Whether an attention call has a diagonal, and at which key slot its first query stands."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from attviz.calls.banded import DiagonalCall
from attviz.calls.call import AttentionCall
from attviz.calls.fused import FusedCall
from attviz.calls.layouts import WeightLayout, layout_of, trimmed
from attviz.calls.packed import PackedCall
from attviz.calls.padded import PaddedCall, Padding
from attviz.calls.scored import ScoredCall
from attviz.calls.softmax import SoftmaxCall
from attviz.calls.trust import checked
from attviz.hooks.scope.evidence import Situation, of_one
from attviz.hooks.scope.follow.answer import Answer
from attviz.hooks.scope.model_map import Layout
from attviz.hooks.scope.owner import Found
from attviz.hooks.scope.selection import Selection
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.grouped import unpacked
from attviz.hooks.session.padding import last_visible
from attviz.hooks.session.reasons import (
    AHEAD,
    COMPILED,
    CROSS,
    FOREIGN,
    MANY_AXES,
    MOVED,
    ONE_BY_ONE,
    OTHER_DIMENSION,
    ROWS,
    Verdict,
    lengths_differ,
    two_readings,
    unequal,
)
from attviz.hooks.session.settled import settle
from attviz.hooks.session.shapes import folded, in_four_dimensions, with_heads
from attviz.hooks.tap.operators import Operator
from attviz.names import has_sinks, is_cross_attention, is_other_softmax, names_another, predicts_ahead

_IN_COMPILED_CODE = Answer("unsettled", COMPILED, apart=True)


class Judge:
    """Applies the rules to one call. Knows the model, but holds no state of a forward."""

    def __init__(self, layout: Layout, selection: Selection) -> None:
        self._expected = frozenset(layout.expected) | frozenset(selection.named)
        self._named, self._vouched = frozenset(selection.named), selection.vouched
        self._named_modules = frozenset(layout.modules[name] for name in self._named)
        self._map = layout
        self._library: dict[str | None, bool] = {}
        self._cross: dict[str, bool] = {}

    def __call__(
        self,
        operator: Operator,
        call: AttentionCall,
        owner: str | None,
        module: nn.Module | None,
        situation: Situation,
        context: TokenContext | None,
        answer: Answer | None = None,
        dim: int | None = None,
        followed: bool = False,
        found: Found | None = None,
    ) -> Verdict:
        """Judge one call of ``owner`` (None if the module is unknown).

        Args:
            operator: Operator of the call.
            call: The call, as its reader returned it.
            owner: Name of the module it belongs to.
            module: That module.
            situation: The other sequences the module was given.
            context: What is known about the tokens.
            answer: What following the module showed, if it was followed.
            dim: Dimension of a softmax; None for other operators.
            followed: Whether ``answer`` comes from this very call.
            found: Where the call comes from, if it was looked for.
        """
        laid_out = isinstance(call, SoftmaxCall) and layout_of(module) is not None
        if answer is not None and not laid_out and answer.kind != "unsettled" and not self._of_a_pair(answer, owner, module, situation):
            verdict = self._settled(call, answer, module, context, followed)
            if verdict is not None:
                return verdict
        untold = answer is not None and not laid_out and not self.from_library(owner)
        if untold and answer is not None and answer.apart and not (isinstance(call, SoftmaxCall) and call.weights.ndim < 3):
            return Verdict(None, True, untold=answer.why)
        if dim is not None and not laid_out and isinstance(call, SoftmaxCall) and (call.weights.ndim < 3 or dim != call.weights.ndim - 1):
            if untold and answer is not None and answer.weighing and call.weights.shape[-1] == call.weights.shape[-2]:
                return Verdict(None, True, untold=answer.why)
            return FOREIGN if call.weights.ndim < 3 else Verdict(None, False, aside=OTHER_DIMENSION)
        if not laid_out and owner not in self._vouched and self._is_cross(owner, module, situation):
            if not untold or owner in self._named:
                return Verdict(None, True, CROSS, _crossing(call, module, context))
            return Verdict(None, True, untold=two_readings(answer))
        if untold and answer is not None and isinstance(call, SoftmaxCall) and call.weights.ndim > 4 and answer.weighing:
            return Verdict(None, True, untold=MANY_AXES.format(call.weights.ndim))
        if untold and self._doubtful(call, owner, situation, context, answer):
            return Verdict(None, True, untold=two_readings(answer))
        if answer is None and owner not in self._named and folded(call, module, context):
            return Verdict(None, True, untold=ROWS)
        if answer is None and found is not None and found.compiled:
            answer = _IN_COMPILED_CODE
        if found is not None and found.node is not None and isinstance(call, SoftmaxCall) and not laid_out:
            verdict = self._inlined(call, owner, module, context, answer, found.node)
        else:
            verdict = self._by_shape(call, owner, module, context, answer)
        return verdict if verdict.call is None or verdict.evidence else verdict._replace(evidence="its lengths and its operator")

    def _settled(
        self, call: AttentionCall, answer: Answer, module: nn.Module | None, context: TokenContext | None, followed: bool
    ) -> Verdict | None:
        """What the evidence says; None if the rules of the call say more."""
        fused = not isinstance(call, SoftmaxCall)
        if answer.kind == "cross":
            return Verdict(None, True, f"{CROSS} ({answer.why})", _crossing(call, module, context), evidence=answer.why)
        if answer.kind == "none":
            if fused or answer.weighing:
                return Verdict(None, True, answer.why, evidence=answer.why)
            return Verdict(None, False, aside=answer.why, evidence=answer.why)
        if answer.kind == "changed":
            return Verdict(None, True, untold=answer.why)
        if answer.several and module not in self._named_modules:
            return Verdict(None, True, untold=ONE_BY_ONE)
        if isinstance(call, SoftmaxCall):
            call = unpacked(call, module, context)
        elif isinstance(call, FusedCall):
            call = checked(unpacked(call, module, context))
        elif not isinstance(call, ScoredCall):
            return None
        settled = settle(call, answer, context, followed)
        if isinstance(settled, str):
            return Verdict(None, True, untold=settled)
        return Verdict(settled, True, evidence=answer.why + MOVED * answer.moved, moved=answer.moved)

    def from_library(self, owner: str | None) -> bool:
        """Whether a module's attention was checked class by class."""
        if owner not in self._library:
            self._library[owner] = self._map.from_library(owner)
        return self._library[owner]

    def _of_a_pair(self, answer: Answer, owner: str | None, module: nn.Module | None, situation: Situation) -> bool:
        """Whether a library's cross-attention was given the other member of a pair, whose axes are the same (LightGlue)."""
        if answer.kind != "self" or answer.before or answer.behind or owner is None or module is None or not self.from_library(owner):
            return False
        return names_another(module, situation) and is_cross_attention(owner, module)

    def _is_cross(self, owner: str | None, module: nn.Module | None, situation: Situation) -> bool:
        """Whether names say that a module attends to another sequence: believed only if nothing else is known."""
        if owner is None or module is None:
            return False
        if owner not in self._cross:
            self._cross[owner] = is_cross_attention(owner, module)
        return self._cross[owner] or names_another(module, situation)

    def _doubtful(
        self, call: AttentionCall, owner: str | None, situation: Situation, context: TokenContext | None, answer: Answer | None
    ) -> bool:
        """Whether an unsettled call from unknown code may be something other than its shape suggests."""
        if owner in self._named or (context is not None and context.registered and of_one(situation)):
            return False
        if isinstance(call, FusedCall):
            return call.key.shape[-2] > 1
        if not isinstance(call, SoftmaxCall) or call.weights.shape[-1] == 1:
            return False
        return owner in self._expected or call.weights.shape[-1] == call.weights.shape[-2] or (answer is not None and answer.weighing)

    def _by_shape(
        self, call: AttentionCall, owner: str | None, module: nn.Module | None, context: TokenContext | None, answer: Answer | None
    ) -> Verdict:
        """A call that was not followed (compiled code, tracing), or one from a library that was checked class by class."""
        if isinstance(call, SoftmaxCall):
            return self._softmax(call, owner, module, context, answer)
        if isinstance(call, FusedCall):
            return self._fused(call, owner, module, context, answer)
        return self._ruled(call, owner, context, answer)

    def _fused(
        self, call: FusedCall, owner: str | None, module: nn.Module | None, context: TokenContext | None, answer: Answer | None
    ) -> Verdict:
        shape = call.query.shape
        if len(shape) != 4 or context is None or context.length != shape[2]:  # grouped heads may be packed where queries should be
            call = unpacked(call, module, context)
        call = checked(with_heads(call, context))
        q_len, kv_len = call.query.shape[2], call.key.shape[2]
        if q_len == kv_len:
            return Verdict(call, True)
        offset = self._offset(q_len, kv_len, owner, context, call.bias)
        if offset is None:
            return lengths_differ(q_len, kv_len, call, answer)
        return Verdict(call.replace(kv_offset=offset), True)

    def _ruled(self, call: AttentionCall, owner: str | None, context: TokenContext | None, answer: Answer | None) -> Verdict:
        """A call whose reader knows its rules: packed texts, windows, functions."""
        q_len, kv_len = call.shape[2:]
        if call.cu_seqlens is None and q_len != kv_len:
            offset = self._offset(q_len, kv_len, owner, context)
            if offset is None and answer is _IN_COMPILED_CODE:
                return lengths_differ(q_len, kv_len, call, answer)
            if offset is None:
                return Verdict(None, True, unequal(q_len, kv_len), call)
            call = call.replace(kv_offset=offset) if isinstance(call, ScoredCall) else call
        if isinstance(call, PackedCall) and call.cu_seqlens is not None and context is not None:
            kept = context.padding_of(call.cu_seqlens.numel() - 1, q_len)
            if kept is not None:
                call = PaddedCall(call, Padding(*kept))
        return Verdict(call, True)

    def _softmax(
        self, call: SoftmaxCall, owner: str | None, module: nn.Module | None, context: TokenContext | None, answer: Answer | None
    ) -> Verdict:
        layout = layout_of(module)
        if layout is not None and module is not None:
            return _laid_out(layout, call, module, context)
        if call.weights.ndim == 5 and predicts_ahead(module):
            return Verdict(None, True, AHEAD)
        call = unpacked(call, module, context)
        weights = call.weights
        q_len, kv_len = weights.shape[-2], weights.shape[-1]
        expected = owner in self._expected
        if not expected and (
            (q_len == 1 and not (answer is not None and answer.paired))
            or (owner is not None and module is not None and is_other_softmax(owner, module))
        ):
            return FOREIGN
        sinks = 0
        if q_len == kv_len:
            offset: int | Tensor | None = 0
        elif kv_len == q_len + 1 and has_sinks(module):
            offset, sinks = 0, 1  # a learned sink stands behind the keys
        elif expected:
            sinks = int(has_sinks(module))
            offset = self._offset(q_len, kv_len - sinks, owner, context, call.logits)
        else:
            return FOREIGN
        call = in_four_dimensions(call, module, context, sinks)
        if offset is None:
            return lengths_differ(q_len, kv_len, call, answer) if expected else FOREIGN
        return Verdict(call.replace(kv_offset=offset), True)

    def _inlined(
        self,
        call: SoftmaxCall,
        owner: str | None,
        module: nn.Module | None,
        context: TokenContext | None,
        answer: Answer | None,
        node: Any,
    ) -> Verdict:
        """A softmax of compiled code whose graph may show that some of its columns are no keys."""
        from attviz.hooks.scope.graph import joined  # of compiled code alone

        shown = joined(node)
        whole = unpacked(call, module, context)
        q_len, kv_len = whole.weights.shape[-2:]
        if q_len == kv_len or (q_len == 1 and owner not in self._expected) or kv_len == q_len + int(has_sinks(module)):
            return self._softmax(call, owner, module, context, answer)
        if shown is not None and shown.learned:
            keys = kv_len - shown.columns
            offset = 0 if keys == q_len else self._offset(q_len, keys, owner, context, whole.logits)
            if offset is not None:
                kept = in_four_dimensions(whole, module, context, shown.columns).replace(kv_offset=offset)
                return Verdict(kept, True, evidence=f"its compiled graph ({shown.columns} learned behind the keys)")
        if shown is not None and not shown.learned and self._offset(q_len, kv_len, owner, context) is None:
            return Verdict(None, True, untold=COMPILED)
        return self._softmax(call, owner, module, context, answer)

    def _offset(
        self, q_len: int, kv_len: int, owner: str | None, context: TokenContext | None, mask: Tensor | None = None
    ) -> int | Tensor | None:
        """Key slot of query 0 if lengths differ: from the cache, or because the user named this module; otherwise unknown."""
        slot = None if context is None else context.slot(q_len, kv_len)
        if slot is None and owner in self._named and kv_len >= q_len:
            return last_visible(mask, q_len, kv_len) - q_len + 1
        return slot


def _crossing(call: AttentionCall, module: nn.Module | None, context: TokenContext | None) -> AttentionCall | None:
    """A call of cross-attention, in a shape that can be read."""
    if isinstance(call, SoftmaxCall):
        return None if layout_of(module) is not None else in_four_dimensions(call, module, context, 0)
    return checked(with_heads(call)) if isinstance(call, FusedCall) else call


def _laid_out(layout: WeightLayout, call: SoftmaxCall, module: nn.Module, context: TokenContext | None) -> Verdict:
    found = layout.diagonal(module, call.weights)
    if found is None:
        return FOREIGN
    if isinstance(found, str):
        return Verdict(None, True, found)
    return Verdict(DiagonalCall(call.operator, trimmed(found, None if context is None else context.length)), True)
