"""The callback for ``transformers.Trainer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from attviz.hooks.scope.stack import calling_object
from attviz.integrations.guarded_step import GuardedStep
from attviz.integrations.monitor import AttentionMonitor, Per
from attviz.integrations.sinks import FunctionSink, Heads, Sink, TensorBoardSink, WandbSink, check_heads, emit, tensorboard_folder

if TYPE_CHECKING:
    from attviz.metrics.attention_health import AttentionHealth
    from attviz.protocols import Listener

_NEAR = 12  # callers between an event and the trainer: the handler, and subclasses that call super()


class AttentionCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Log the health of attention while a ``transformers.Trainer`` trains, and raise the alarms.

    ``Trainer(..., callbacks=[AttentionCallback(every=50)])``. Steps 50, 100, 150, ... are captured, counted as the trainer counts them, so
    that with ``logging_steps=50`` every loss has its row. Each captured step is logged immediately, for any ``logging_steps``: to the
    trackers in ``report_to`` (TensorBoard: next to the trainer's own event file; Weights & Biases: the open run), to ``log``, and to
    ``trainer.state.log_history``. With several processes, the first one logs the statistics of all.
    The capture is open while the trainer's ``training_step`` runs, and only then: if ``train()`` ends with an exception or Ctrl-C, the
    model is as before, wherever it happened.
    ``Trainer(torch_compile=True)`` and ``model.compile()`` are captured too: see ``run_compiled`` of :class:`AttentionMonitor`.

    Args:
        every: Capture every N-th optimizer step, with all its micro-batches; the steps in between run untouched.
        health: Quantities, thresholds and the action on an alarm; ``AttentionHealth()`` by default.
        metrics: Further streaming metrics to feed.
        per: Keys for each ``"layer"`` or for the ``"model"``.
        heads: All heads of a quantity as one ``"histogram"`` or ``"image"`` (drawn: some 0.1 s each); None for neither.
        log: Also called with ``(values, step)``, for any other tracker.
        **options: Passed to :class:`AttentionMonitor`: ``strict=``, ``run_compiled=``, ``layers=``, ``token_ids=``.

    Raises:
        ArgumentError: If an option is invalid.

    Attributes:
        monitor: The :class:`AttentionMonitor`; ``monitor.values``, ``monitor.heads``, ``monitor.alarms``.
    """

    def __init__(
        self,
        *,
        every: int = 50,
        health: AttentionHealth | None = None,
        metrics: Sequence[Listener] | Listener = (),
        per: Per = "layer",
        heads: Heads | None = "histogram",
        log: Callable[[dict[str, float], int], object] | None = None,
        **options: Any,
    ) -> None:
        check_heads(heads, "AttentionCallback")
        self.monitor = AttentionMonitor(every=every, health=health, metrics=metrics, per=per, **options)
        self.heads, self.log = heads, log
        self._sinks: list[Sink] = []
        self._writer: Any = None
        self._guarded: GuardedStep | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the trackers; those of the trainer were set up just before."""
        self._abandon()
        self._sinks = [FunctionSink(self.log)] if self.log is not None and state.is_world_process_zero else []
        if not state.is_world_process_zero:
            return
        reports = args.report_to if isinstance(args.report_to, list) else [args.report_to]
        if "tensorboard" in reports:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(tensorboard_folder(args.output_dir), filename_suffix=".attviz")
            self._sinks.append(TensorBoardSink(self._writer))
        if "wandb" in reports:
            import wandb

            if wandb.run is not None:
                self._sinks.append(WandbSink(wandb.run, "train/global_step"))

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Begin to capture, if this step is due."""
        step = state.global_step + 1
        if step % self.monitor.every:
            self.monitor.begin(model, step)  # forgets what the last captured step showed
            return
        # The trainer hands over the model without its wrappers; torch_compile= wraps it.
        begin = partial(self.monitor.begin, model, step, compiled=bool(getattr(args, "torch_compile", False)))
        trainer = calling_object(("training_step", "callback_handler"), _NEAR)
        if trainer is None:  # a loop of one's own that calls the events
            begin()
        else:
            self._guarded = GuardedStep(trainer, self.monitor, begin)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the step, act on alarms, and log."""
        guarded, self._guarded = self._guarded, None
        if guarded is not None:
            guarded.remove()
        self.monitor.end()
        values, step = self.monitor.values, state.global_step
        if values and state.is_world_process_zero:
            state.log_history.append({**values, "step": step})
            emit(self._sinks, values, self.monitor.heads, step, self.heads)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the model as it was, and close what was opened."""
        self._abandon()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _abandon(self) -> None:
        guarded, self._guarded = self._guarded, None
        if guarded is not None:
            guarded.release()
        self.monitor.abandon()
