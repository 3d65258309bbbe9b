"""The life of one capture: entering, sampling every N-th forward, leaving, and reporting what was missed."""

from __future__ import annotations

import warnings
from typing import Literal

from torch import nn

from attviz.errors import CaptureError, CaptureWarning
from attviz.hooks.scope.hooks import Scope
from attviz.hooks.scope.model_map import Layout
from attviz.hooks.scope.selection import Selection
from attviz.hooks.scope.tokens import TokenSource
from attviz.hooks.session.graphs import refuse_replays
from attviz.hooks.session.messages import explain, nothing_seen, undecided
from attviz.hooks.session.observer import Observer
from attviz.hooks.session.recorder import Recorder
from attviz.hooks.tap.hub import listen, thread_state, unlisten
from attviz.hooks.tap.places import watched_places
from attviz.selecting import Layers


class Session:
    """Attaches a recorder to a model and removes it again.

    Attributes:
        layout: The map of the model.
        selection: Which layers were requested.
        observer: What has been seen.
        state: ``"new"``, ``"open"`` or ``"closed"``; a session is entered once.
    """

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        layout: Layout,
        *,
        layers: Layers,
        every: int,
        strict: bool,
        token_ids: TokenSource | None,
    ) -> None:
        self._model, self._recorder, self._every, self._strict = model, recorder, every, strict
        self.layout = layout
        self.selection = Selection(layers, self.layout)
        self.observer = Observer(self.layout, self.selection, recorder)
        self._scope = Scope(self.layout, self.observer, token_ids, self._before_forward, self._after_forward)
        self.state: Literal["new", "open", "closed"] = "new"
        self._clean = False  # everything was taken off

    def enter(self) -> None:
        """Attach everything or, if that is interrupted, nothing."""
        if self.state != "new":
            raise CaptureError("capture: this Capture was already used. Create a new one with attviz.capture(model) for each context.")
        refuse_replays(self._model, self.layout)
        self.state = "open"
        entered = False
        try:
            self.observer.place.enter()
            self._scope.attach_containers()
            self._arm()
            entered = True
        finally:
            if not entered:
                self.close()

    def leave(self, *, complain: bool) -> None:
        """Remove everything; report what was missed unless the context ends by an exception."""
        try:
            try:
                self.observer.implicit.close(everywhere=True)
            finally:
                self.close()
        finally:
            self.drop()
        if complain:
            self._complain()

    def close(self) -> None:
        """Remove everything, including what an interrupt left behind."""
        try:
            self._detach()
        finally:
            self.drop()

    def drop(self) -> None:
        """Remove everything unless that was done: the capture is no longer referenced, or leaving was interrupted."""
        if self.state != "new" and not self._clean:
            self._detach()

    def why_empty(self) -> str:
        """Why there is nothing to read."""
        if self.state == "new":
            return "capture: nothing was recorded yet. Run the model inside `with attviz.capture(model) as cap:`."
        if self._recorder.keep == "none":
            return "capture: keep='none' fed the metrics and kept no record. Read the metrics, or capture with keep='last'."
        if self._recorder.forwards > self._recorder.recorded:
            return "capture: the last forward did not finish, so nothing of it was kept. Run the model again inside the context."
        return (
            f"capture: no forward of {type(self._model).__name__} was seen. Run the model that was passed to attviz.capture inside the "
            "context. If a function around it is compiled, compile the model instead."
        )

    def _arm(self) -> None:
        self.observer.paused = False
        self._scope.attach_layers()
        listen(self.observer, watched_places(self.layout))

    def _disarm(self) -> None:
        self.observer.paused = True
        self._scope.detach_layers()
        unlisten(self.observer)

    def _detach(self) -> None:
        self.state = "closed"
        self.observer.place.leave()
        self._disarm()
        self._scope.detach()
        self.observer.abandon()
        thread_state.busy = False  # nobody leaves a context inside an operator: an interrupt may have left it set
        self._clean = True

    def _before_forward(self) -> None:
        """Called by the hook of a container, before the observer is."""
        if self.state != "open" or not self.observer.idle or self.observer.place.elsewhere():
            return
        sampled = self._recorder.forwards % self._every == 0
        if sampled and self.observer.paused:
            self._arm()
        elif not sampled:
            self._recorder.forwards += 1

    def _after_forward(self) -> None:
        """Called when a recorded forward has ended: unexpected owners get hooks; layer hooks come off until the next sample."""
        if self._every > 1:
            self._disarm()
        else:
            self._scope.attach_layers()
        self._scope.release_containers()

    def _complain(self) -> None:
        observer = self.observer
        observer.faults.raise_first()
        observer.account()
        untold = {name: why for name, why in observer.untold.items() if name in self.selection}
        missed = {name: why for name, why in observer.missed.items() if name in self.selection and name not in observer.skipped}
        if untold:
            self._raise_or_warn(undecided(self._model, untold))
        elif self._recorder.recorded and not self._recorder.calls and not observer.owners and not observer.skipped and not missed:
            self._raise_or_warn(nothing_seen(self._model, self.layout))
        elif not self._recorder.forwards and observer.foreign:
            self._raise_or_warn(f"{self.why_empty()} {observer.foreign} attention operators ran outside it.")
        elif missed:
            self._raise_or_warn(explain(self._model, self.layout, missed, len(observer.owners)))

    def _raise_or_warn(self, message: str) -> None:
        if self._strict:
            raise CaptureError(message)
        warnings.warn(message, CaptureWarning, stacklevel=5)
