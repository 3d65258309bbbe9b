"""The short path of a small call whose situation is known: most calls of most captures.

The first call of an attention takes the general path: its owner is found, its evidence weighed, its shape judged. The result is recorded as
a :class:`Way`, and the next call that looks the same reuses it: nothing is decided again, and the remaining arithmetic is done for all
layers at once (:mod:`attviz.calls.together`). Whatever looks different takes the general path.

This is on the hot path of every attention, so :meth:`ShortWays.take` is one function, and nothing is created that may never be read.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from attviz.calls import AttentionCall
from attviz.calls.fused import FusedCall
from attviz.calls.together import SMALL
from attviz.calls.trust import known
from attviz.hooks.scope.evidence import Situation
from attviz.hooks.scope.follow.answer import Answer
from attviz.hooks.scope.model_map import is_of_library
from attviz.hooks.scope.selection import Selection
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.running import LayerScope, ThreadState
from attviz.hooks.tap.operators import Operator

# Whether query and key of a module are as they were when its forward ends: looked at in one forward, whose diagonals are made both ways and
# compared. False: it reuses its buffers, so nothing may wait.
_lasting: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_kinds: dict[tuple[Any, ...], int] = {}


class Way:
    """How the calls of one attention of a module are read.

    Attributes:
        layer: Name of the module.
        module: The module.
        operator: Its operator.
        recorded: Whether the layer was requested.
        evidence: How its first call was settled.
        kind: Ways with the same number may be finished together.
        rows: ``(batch, num_heads, q_len)`` of its record.
        packed: Whether the heads of a group take the place of queries.
        behind: Keys after that of the last query; None if the cache says where the queries' keys are.
        slots: Whether only the cache says so, however many keys there are.
        lasting: Whether query and key are unchanged when the forward ends; None while that is unknown.
    """

    __slots__ = (
        *("behind", "biased", "causal", "device", "dtype", "evidence", "kind", "lasting", "layer", "length", "module", "operator"),
        *("packed", "recorded", "rows", "scale", "shape", "slots"),
    )

    def __init__(self, layer: str, module: nn.Module, operator: Operator, recorded: bool, evidence: str) -> None:
        self.layer, self.module, self.operator, self.recorded, self.evidence = layer, module, operator, recorded, evidence
        self.lasting = _lasting.get(module)

    def learn(self, lasting: bool) -> None:
        """Record whether query and key are unchanged when the forward ends."""
        self.lasting = _lasting[self.module] = lasting and _lasting.get(self.module, True)

    def fit(self, call: FusedCall, judged: FusedCall, answer: Answer | None, context: TokenContext | None) -> None:
        """Note what a call must look like to take this path.

        Args:
            call: A settled call, as its reader returned it.
            judged: The call as it was recorded.
            answer: What following its module showed; None if its shape decided.
            context: What is known about its tokens.
        """
        query = call.query
        self.shape, self.dtype, self.device, self.scale = query.shape, query.dtype, query.device, call.scale
        self.biased, self.causal = call.bias is not None, call.is_causal
        self.length = None if context is None else context.length
        self.rows, self.packed = judged.shape[:3], judged.query.shape != query.shape
        self.slots = answer is not None and answer.buffer
        self.behind = None if answer is None or answer.buffer else answer.behind
        alike = self.shape, call.key.shape[1], self.dtype, self.device, self.scale, self.biased, self.packed
        self.kind = _kinds.setdefault(alike, len(_kinds))


def _has_way(call: AttentionCall, judged: AttentionCall | None, answer: Answer | None, module: nn.Module) -> bool:
    """Whether later calls may skip the general path: small calls of a kernel whose log-sum-exp was found right."""
    if type(call) is not FusedCall or type(judged) is not FusedCall or call.logsumexp is None or not known(call.operator, call.query):
        return False
    query = call.query
    if query.ndim != 4 or call.key.ndim != 4 or not 0 < query.numel() <= SMALL or call.logsumexp.shape != query.shape[:3]:
        return False
    if judged.query.shape != query.shape and call.bias is not None and call.bias.ndim != 4:
        return False
    if (call.bias is not None and not is_of_library(module)) or (answer is not None and answer.moved):
        return False  # what its mask hides from a token others may see; its rows are not the tokens in their order
    return answer is None or (answer.layout is None if answer.kind == "self" else is_of_library(module))


class ShortWays:
    """The short paths that one capture knows."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._ways: dict[tuple[str, Situation, int], Way] = {}

    def forget(self) -> None:
        """Forget all paths, because what was followed meanwhile may change them."""
        self._ways.clear()

    def learn(
        self,
        scope: LayerScope,
        ordinal: int,
        operator: Operator,
        call: AttentionCall,
        judged: AttentionCall | None,
        module: nn.Module,
        answer: Answer | None,
        context: TokenContext | None,
        evidence: str,
    ) -> None:
        """Record how a call was settled, if later calls may take the same path.

        Args:
            scope: The running call of its owner.
            ordinal: Number of the attention within that.
            operator: Its operator.
            call: The call, as its reader returned it.
            judged: The call as it was recorded.
            module: Its owner.
            answer: What following the owner showed.
            context: What is known about its tokens.
            evidence: How it was settled.
        """
        if not _has_way(call, judged, answer, module):
            return
        assert isinstance(call, FusedCall)
        assert isinstance(judged, FusedCall)
        way = Way(scope.name, module, operator, scope.name in self._selection, evidence)
        way.fit(call, judged, answer if answer is not None and answer.kind == "self" else None, context)
        self._ways[scope.name, scope.situation, ordinal] = way

    def take(self, local: ThreadState, scope: LayerScope, operator: Operator, call: Any) -> bool:
        """Take the path of an earlier call of the same attention, if this one looks the same."""
        way, step = self._ways.get((scope.name, scope.situation, scope.count)), local.step
        if way is None or way.operator is not operator or step is None or not step.plain or local.followed is not None:
            return False
        query, key, bias = call.query, call.key, call.bias
        context = local.contexts[-1] if local.contexts else None
        if (
            query.shape != way.shape
            or query.dtype is not way.dtype
            or query.device != way.device
            or call.scale != way.scale
            or call.is_causal is not way.causal
            or (None if context is None else context.length) != way.length
        ):
            return False
        if bias is None:
            if way.biased:
                return False
        elif (
            not way.biased
            or (context is not None and context.positions is not None and context.mask is None)  # several texts in a row, perhaps
            or (way.packed and bias.shape[1:3] != (1, 1))
        ):
            return False
        q_len, kv_len = way.rows[2], key.shape[2]
        offset: int | Tensor | None
        if way.behind is not None and (context is None or not context.static):
            offset = kv_len - q_len - way.behind
            if offset > 0 and not way.behind and bias is not None and (context is None or not context.cached):
                return False  # a cache that nobody knows: its mask says which slots are in use
        elif kv_len == q_len and not way.slots:
            offset = 0
        elif context is None or not context.cached or kv_len < q_len:
            return False
        else:  # a tensor is left as it is: to clamp it would be a launch for every layer
            offset = context.past if isinstance(context.past, Tensor) else context.slot(q_len, kv_len)
        if offset is None or (type(offset) is int and offset < 0) or (way.causal and not (type(offset) is int and offset == 0)):
            return False
        if way.recorded:
            if context is not None:
                step.past, step.beams = context.past, context.beams
            layer, visits = way.layer, step.visits
            visit = visits.get(layer, 0)
            visits[layer] = visit + 1
            step.calls.append(step.waiting.add(way, visit, context, offset, call))
        scope.count += 1
        scope.seen = True
        return True
