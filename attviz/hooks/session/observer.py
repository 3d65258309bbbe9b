"""Joins scope and tap for one capture: decides which module an attention call belongs to and whether it has a diagonal.

The rules, in order: a call inside the recomputation of a checkpoint was already seen; the innermost hooked module owns a call, else
the innermost running one; cross-attention and other softmaxes are skipped with a reason; calls from a compiled region are held back until
its step ends, and get names only if there are as many of them as attention modules in the region.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch._C import _current_graph_task_id as _graph_task

from attviz.calls import AttentionCall
from attviz.errors import CaptureError
from attviz.hooks.scope import stack
from attviz.hooks.scope.evidence import Followed, Situation
from attviz.hooks.scope.model_map import Layout
from attviz.hooks.scope.owner import Found, Locator
from attviz.hooks.scope.selection import Selection
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session import graphs
from attviz.hooks.session.alignment import Judge
from attviz.hooks.session.faults import Faults
from attviz.hooks.session.following import Following
from attviz.hooks.session.implicit import ImplicitSteps
from attviz.hooks.session.reasons import Verdict, apart
from attviz.hooks.session.recorder import Recorder
from attviz.hooks.session.running import LayerScope, ThreadState, had_nothing_to_do
from attviz.hooks.session.short import ShortWays
from attviz.hooks.session.step import DROP, Step
from attviz.hooks.session.tasks import Place
from attviz.hooks.tap.operators import Operator
from attviz.hooks.tap.operators.softmax import dimension


class Observer:
    """The listener of one capture. Its faults are kept in ``faults``; they never break the user's forward.

    Attributes:
        faults: What went wrong inside the tap, in our code or in a metric.
        missed: Modules that ran without an attention call passing the tap, with the reason if it is known.
        skipped: Modules whose attention has no diagonal, with the reason.
        untold: Modules for which the evidence is not enough.
        owners: Modules that were seen to attend, in order of first execution.
        paused: Set between samples of ``every=N``.
        place: The coroutine it belongs to.
        implicit: Its forwards that no container announced.
        inlined: What was seen of compiled code.
    """

    def __init__(self, layout: Layout, selection: Selection, recorder: Recorder) -> None:
        self.layout, self.selection, self._recorder = layout, selection, recorder
        self.faults = Faults()
        self.missed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.owners: dict[str, None] = {}
        self.paused = False
        self._discovering = True  # until the first forward has ended, every call is located on the Python stack
        self._local = ThreadState()
        self._open: list[Step] = []  # forwards that run now, on any thread
        self._lock = threading.RLock()  # an interrupt may come before it is let go
        self.place = Place()
        self._judge = Judge(layout, selection)
        self._locator = Locator(layout)
        self._following = Following(layout, self._locator, self.skipped)
        self.untold = self._following.untold
        self._ways = ShortWays(selection)
        from attviz.hooks.session.inlined import Inlined  # `import attviz` does without

        self.inlined = Inlined(layout)
        self.implicit = ImplicitSteps(recorder.begin, lambda step: self._end(step, completed=True))

    # ---- scope: called by the hooks

    def enter(
        self, read_context: Callable[[TokenContext | None], TokenContext], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note that a container is called; the outermost one opens a step."""
        local = self._local
        if local.depth == 0 and not self.paused and not self.place.elsewhere():
            self.implicit.close()
            local.step = self._recorder.begin()
            with self._lock:
                self._open.append(local.step)
        local.depth += 1
        local.contexts.append(read_context(local.contexts[-1] if local.contexts else None))
        if local.depth == 1 and local.step is not None and local.followed is None:
            local.counts.clear()
            local.followed = self._following.model(self.layout.modules[name], args, kwargs)

    def leave(self, completed: bool) -> bool:
        """Note that a container returned or raised; True if that ended a step."""
        local = self._local
        if local.depth == 0:
            return False
        local.depth -= 1
        local.contexts.pop()
        if local.depth or local.step is None:
            return False
        local.scopes.clear()
        step, local.step = local.step, None
        with self._lock:
            self._open.remove(step)
        followed, local.followed = local.followed, None
        if followed is not None:
            self._finish(followed, completed)
        self._end(step, completed)
        return True

    @property
    def foreign(self) -> int:
        """Attention operators that ran on this thread while no module of the model was being called."""
        return self._local.foreign

    @property
    def idle(self) -> bool:
        """Whether this thread is outside every container."""
        return self._local.depth == 0

    def enter_layer(self, name: str, situation: Situation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a module that should attend is called."""
        if self.place.bound and self.place.elsewhere():
            return
        local, scope = self._local, LayerScope(name, situation)
        local.scopes.append(scope)
        if local.followed is None:
            if (name, situation) in self._following.layers:
                return
            local.followed = scope.followed = self._following.layer(name, situation, args, kwargs)
        if local.followed is not None:
            scope.before = local.followed.counts

    def leave_layer(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        """Note that it returned or raised: if nothing passed the tap meanwhile, it was missed, unless it had nothing to do."""
        local, scopes = self._local, self._local.scopes
        if not scopes or scopes[-1].name != name:
            return  # another hook raised before ours ran, or the scope belongs to a forward that failed
        scope = scopes.pop()
        if scope.seen and local.followed is None:  # as almost always
            if scopes:
                scopes[-1].seen = True
            return
        module, completed = self.layout.modules[name], output is not None
        reason = scope.aside
        if not scope.seen:
            idle = self._following.idle(local.followed, module, scope.situation, scope.before)
            reason = reason or idle
        elif local.followed is not None:
            local.followed.ran(module, scope.situation, None)
        if scope.followed is not None:
            local.followed = None
            self._finish(scope.followed, completed)
        if completed and not scope.seen:
            if reason is not None:
                self.skipped.setdefault(name, reason)
            elif not had_nothing_to_do(args, output):
                self.missed.setdefault(name, "")
        elif scope.seen and scopes:
            scopes[-1].seen = True

    def _finish(self, followed: Followed, completed: bool) -> None:
        self._following.finish(followed, completed)
        self._ways.forget()

    def abandon(self) -> None:
        """Forget what is running on this thread, because the context has ended, perhaps in the middle of a forward."""
        local = self._local
        if local.step is not None and local.step in self._open:  # an interrupt is no exception to the hooks: they did not hear of it
            self._open.remove(local.step)
        followed = [local.followed, *(scope.followed for scope in local.scopes)]
        self.implicit.forget()
        local.depth, local.step, local.followed = 0, None, None
        local.scopes.clear()
        local.contexts.clear()
        for one in followed:
            if one is not None:
                one.finish(False)

    # ---- tap: called for each operator of the table

    def listening(self) -> bool:
        """Whether this thread runs the captured model."""
        if self.paused or (self.place.bound and self.place.elsewhere()):
            return False
        local = self._local
        if local.depth or local.scopes or self._locator.on_stack():
            return True
        local.foreign += 1
        return False

    def observe(self, operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Record one operator call if it is a self-attention of the captured model."""
        if _graph_task() != -1:
            return  # checkpointing computes a forward again inside backward
        try:
            call = operator.read(args, kwargs, result) if not graphs.being_recorded(args) else graphs.RECORDED
            local = self._local
            if isinstance(call, str):
                self._set_aside(local, operator, call)
            elif call is not None and not (local.scopes and self._ways.take(local, local.scopes[-1], operator, call)):
                self._receive(local, operator, call, args, kwargs)
        except Exception as fault:
            self.faults.keep(fault)

    def _set_aside(self, local: ThreadState, operator: Operator, reason: str) -> None:
        """Note why an operator has no diagonal; a softmax counts only if its module turns out not to attend otherwise."""
        owner = local.scopes[-1].name if local.scopes else self._locator.innermost()[0]
        if local.scopes and reason is not graphs.RECORDED:
            local.scopes[-1].aside = reason
        elif owner is not None and (local.scopes or operator.kind == "fused"):
            (self.missed if reason is graphs.RECORDED else self.skipped).setdefault(owner, reason)

    def _receive(self, local: ThreadState, operator: Operator, call: AttentionCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        scope = local.scopes[-1] if local.scopes else None
        owner, region = None, None
        found: Found | None = None
        if scope is not None and not self._discovering:
            owner, situation = scope.name, scope.situation  # the ordinary call
            ordinal, scope.count = scope.count, scope.count + 1
        else:
            hooked, given = (None, ()) if scope is None else (scope.name, scope.situation)
            owner, situation, region, identity = (found := self._locator.place(hooked, given))[:4]
            ordinal = 0
            if owner is not None:
                ordinal = local.counts.get((owner, identity), 0)
                local.counts[owner, identity] = ordinal + 1
        context = local.contexts[-1] if local.contexts else None
        module = None if owner is None else self.layout.modules[owner]
        answer, shown_here = None, False
        if module is not None:
            answer, shown_here = self._following.answer(local.followed, operator, call, module, situation, ordinal, context, args, kwargs)
        dim = dimension(args, kwargs) if operator.kind == "softmax" else None
        verdict = self._judge(operator, call, owner, module, situation, context, answer, dim, shown_here, found)
        if found is not None:
            self.inlined.note(found, verdict)
        if scope is not None:
            if operator.kind == "softmax" and verdict.call is not None and scope.reason is not None and not apart(answer, scope.reason):
                verdict = Verdict(None, True, scope.reason)  # one of several softmaxes that make up one attention (Nyström)
            scope.seen = scope.seen or verdict.accounts
            scope.reason = scope.reason or verdict.reason
            scope.aside = scope.aside or verdict.aside
            if module is not None and owner == scope.name and local.followed is None and not self._discovering:
                self._ways.learn(scope, ordinal, operator, call, verdict.call, module, answer, context, verdict.evidence)
        if region is not None:
            if verdict.call is not None or operator.kind == "fused":
                self._keep_region(local, region, verdict.call, context)
        elif owner is not None:
            self._keep(local, owner, verdict, context)

    def _keep(self, local: ThreadState, owner: str, verdict: Verdict, context: TokenContext | None) -> None:
        if verdict.reason is not None:
            self.skipped.setdefault(owner, verdict.reason)
        if verdict.untold is not None:
            self.untold.setdefault(owner, verdict.untold)
        if verdict.call is None:
            if verdict.crossing is not None and self._recorder.cross and owner in self.selection:
                self._recorder.add_cross(local.step or self._implicit_step(owner), owner, verdict.crossing, context)
            return
        self.owners.setdefault(owner)
        if owner in self.selection:
            step = local.step or self._implicit_step(owner)
            known = None if verdict.moved else context
            self._recorder.add(step, owner, verdict.call, known, verdict.evidence, sparse=not self._judge.from_library(owner))

    def _keep_region(self, local: ThreadState, region: str, call: AttentionCall | None, context: TokenContext | None) -> None:
        step = local.step or self._implicit_step(None)
        step.regions.setdefault(region, []).append(None if call is None else len(step.calls))
        if call is not None:
            self._recorder.add(step, None, call, context, "its place in compiled code, its lengths and its operator")

    def account(self) -> None:
        """Look, when the context ends, for attentions in compiled code of which nothing was seen."""
        if "the model" not in self.missed:
            self.missed |= self.inlined.close({*self.owners, *self.skipped, *self.untold, *self.missed}, self.skipped)

    # ---- steps

    def _implicit_step(self, owner: str | None) -> Step:
        """Step of a call outside every container; a worker thread of a running forward belongs to that forward."""
        with self._lock:
            running = self._open[0] if len(self._open) == 1 else None
        return running or self.implicit.step(owner if owner is not None else stack.call_site())

    def _end(self, step: Step, completed: bool) -> None:
        missed: dict[str, str] = {}
        skipped: dict[str, str] = {}
        names = step.names(self.layout, self.selection, self.inlined.names, missed, skipped)
        if completed:
            self.missed.update(missed)
            self.skipped.update(skipped)
            self._discovering = False
        self.owners.update(dict.fromkeys(name for name in names.values() if name and name != DROP))
        try:
            self._recorder.end(step, names, completed)
        except CaptureError as fault:
            self.faults.keep(fault)
