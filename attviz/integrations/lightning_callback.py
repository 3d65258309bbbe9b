"""The callback for Lightning, under either of its package names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attviz.errors import MissingExtraError
from attviz.integrations.monitor import AttentionMonitor, Per
from attviz.integrations.sinks import FunctionSink, Heads, Sink, TensorBoardSink, WandbSink, check_heads, emit

if TYPE_CHECKING:
    from attviz.metrics.attention_health import AttentionHealth
    from attviz.protocols import Listener

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback_class() -> type[Any]:
    """``Callback`` of the package that the user already imported, else of the one that is installed."""
    for name in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            found: type[Any] = importlib.import_module(name).Callback
        except ImportError:
            continue
        return found
    raise MissingExtraError("LightningAttentionCallback: Lightning is not installed. Run: pip install lightning")


class LightningAttentionCallback(_callback_class()):  # type: ignore[misc]  # which package it is shows at run time
    """Log the health of attention while a Lightning ``Trainer`` trains, and raise the alarms.

    ``Trainer(callbacks=[LightningAttentionCallback(every=50)])``. The numbers go to every logger of the trainer at each captured step,
    under the number that Lightning gives the losses of that step (it counts from 0: the 50th step is 49), and into
    ``trainer.callback_metrics``, so that ``EarlyStopping(monitor="attviz/row_entropy")`` works (with ``per="model"``).

    Args:
        every: Capture every N-th optimizer step, with all its micro-batches; the steps in between run untouched.
        health: Quantities, thresholds and the action on an alarm; ``AttentionHealth()`` by default.
        metrics: Further streaming metrics to feed.
        per: Keys for each ``"layer"`` or for the ``"model"``.
        heads: All heads of a quantity as one ``"histogram"`` or ``"image"``; None for neither. TensorBoard and W&B take them.
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
        super().__init__()
        check_heads(heads, "LightningAttentionCallback")
        self.monitor = AttentionMonitor(every=every, health=health, metrics=metrics, per=per, **options)
        self.heads, self._log_function = heads, log  # not self.log: Lightning puts its own there

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin or continue to capture, if this step is due."""
        compiled = getattr(pl_module, "_compiler_ctx", None) is not None  # torch.compile(module): Lightning unwraps it
        self.monitor.begin(pl_module, _steps(trainer) + 1, compiled=compiled)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Read the step if this was its last batch, act on alarms, and log."""
        if trainer.fit_loop.epoch_loop._should_accumulate():
            self.monitor.pause()
            return
        if not self.monitor.active:
            return
        self.monitor.end()
        values = self.monitor.values
        if not values:
            return
        pl_module.log_dict(values, logger=False, on_step=True, rank_zero_only=False)
        if trainer.is_global_zero:
            emit(self._sinks(trainer), values, self.monitor.heads, _steps(trainer), self.heads)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the model as it was."""
        self.monitor.abandon()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the model as it was."""
        self.monitor.abandon()

    def _sinks(self, trainer: Any) -> list[Sink]:
        sinks: list[Sink] = [] if self._log_function is None else [FunctionSink(self._log_function)]
        for logger in trainer.loggers:
            kind = type(logger).__name__
            if kind == "TensorBoardLogger":
                sinks.append(TensorBoardSink(logger.experiment))
            elif kind == "WandbLogger":
                sinks.append(WandbSink(logger.experiment, "trainer/global_step"))
            else:
                sinks.append(FunctionSink(logger.log_metrics))
        return sinks


def _steps(trainer: Any) -> int:
    """Optimizer steps done so far, as Lightning counts them for its loggers (``global_step`` counts each optimizer by itself)."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)
