"""One captured step of a ``transformers.Trainer``: open while its ``training_step`` runs, so that no exception leaves anything behind."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attviz.errors import CaptureWarning

if TYPE_CHECKING:
    from attviz.integrations.monitor import AttentionMonitor


class GuardedStep:
    """Puts a function around ``trainer.training_step`` for one optimizer step.

    The trainer has no event for an exception, so a capture that is open from one event to the next would stay on the model when a run is
    interrupted. Inside ``training_step`` the exception is seen; outside it nothing is open.

    Args:
        trainer: Whose step it is.
        monitor: Paused after each micro-batch, abandoned by an exception.
        begin: Starts the monitor's step, or continues it.
    """

    def __init__(self, trainer: Any, monitor: AttentionMonitor, begin: Callable[[], None]) -> None:
        self._trainer, self._ran, self._active = trainer, False, True
        original = trainer.training_step
        self._before = vars(trainer).get("training_step")  # None: a method of its class

        @functools.wraps(original)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            if not self._active:  # a run that was interrupted between two of these left this function behind
                return original(*args, **kwargs)
            self._ran = True
            try:
                begin()
                loss = original(*args, **kwargs)
                monitor.pause()
            except BaseException:
                self.release()
                monitor.abandon()
                raise
            return loss

        self._wrapper = training_step
        trainer.training_step = training_step

    def remove(self) -> None:
        """End the step."""
        if not self._ran:
            warnings.warn(
                f"AttentionCallback: {type(self._trainer).__name__} never called its own training_step in this step, so nothing was "
                "captured. Call self.training_step in your loop, or use attviz.integrations.AttentionMonitor there: "
                "with monitor.watch(model, step): ...",
                CaptureWarning,
                stacklevel=3,
            )
        self.release()

    def release(self) -> None:
        """Restore the trainer's method."""
        self._active = False
        if vars(self._trainer).get("training_step") is not self._wrapper:
            return
        if self._before is None:
            del self._trainer.training_step
        else:
            self._trainer.training_step = self._before
