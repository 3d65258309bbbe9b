"""Watch the attention of a model in training: every N-th step is captured, the others run untouched."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import nn

from attviz._capture import capture
from attviz.errors import ArgumentError, CaptureWarning, EmptyMetricError
from attviz.metrics.attention_health import AttentionHealth
from attviz.metrics.health_table import QUANTITIES, HealthTable

if TYPE_CHECKING:
    import numpy as np

    from attviz.hooks.session.recorder import Metric
    from attviz.metrics.alarms import Alarm

Per = Literal["layer", "model"]


class AttentionMonitor:
    """Capture every N-th training step, turn it into a bounded set of numbers, and raise the alarms.

    Between the captured steps nothing is on the model: no hook, no tap. Evaluation inside the training loop is not captured.

    Args:
        every: Capture each N-th step.
        health: The quantities, thresholds and what an alarm does; its own ``every`` counts captured steps.
        metrics: Further streaming metrics, fed at each captured step and never reset: read them when you like.
        per: Keys for each ``"layer"`` (five per layer) or for the ``"model"`` (five in all). Heads never become keys: see ``heads``.
        strict: Raise where a layer ran unseen; by default a warning, so that a run does not die of being watched.
        **capture_options: Further options of :func:`attviz.capture`, such as ``layers=`` or ``token_ids=``.

    Raises:
        ArgumentError: If an option is outside its choices.

    Attributes:
        values: Numbers of the last captured step by key, such as ``"attviz/row_entropy/layer_03"``; empty if this step was not captured.
        heads: One ``[num_layers, num_heads]`` array per quantity of the last captured step.
        alarms: Alarms of the last captured step.

    Example:
        >>> import torch
        >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> monitor, x = AttentionMonitor(every=2, per="model"), torch.zeros(1, 4, 8)
        >>> for step in range(3):
        ...     with monitor.watch(attention, step):
        ...         output, _ = attention(x, x, x)
        ...     print(step, {key: round(value, 3) for key, value in monitor.values.items() if "diagonal" in key})
        0 {'attviz/diagonal': 0.25}
        1 {}
        2 {'attviz/diagonal': 0.25}
    """

    def __init__(
        self,
        *,
        every: int = 50,
        health: AttentionHealth | None = None,
        metrics: Sequence[Metric] | Metric = (),
        per: Per = "layer",
        strict: bool = False,
        **capture_options: Any,
    ) -> None:
        if type(every) is not int or every < 1:
            raise ArgumentError(f"AttentionMonitor: every={every!r} must be a whole number of at least 1.")
        if per not in get_args(Per):
            raise ArgumentError(f"AttentionMonitor: per={per!r} is none of {', '.join(map(repr, get_args(Per)))}.")
        if refused := {"keep", "every", "metrics"} & set(capture_options):
            raise ArgumentError(
                f"AttentionMonitor: {', '.join(sorted(refused))} is its own business; give layers=, token_ids= and the like."
            )
        self.every, self.per = every, per
        self.health = AttentionHealth() if health is None else health
        self.metrics = list(metrics) if isinstance(metrics, Sequence) else [metrics]
        self.values: dict[str, float] = {}
        self.heads: dict[str, np.ndarray] = {}
        self.alarms: tuple[Alarm, ...] = ()
        self._options = {**capture_options, "strict": strict}
        self._open: ExitStack | None = None
        self._samples = 0
        self._reading = False

    @contextmanager
    def watch(self, model: nn.Module, step: int) -> Iterator[None]:
        """Run one training step inside; captured if ``step`` is a multiple of ``every``.

        Raises:
            AttentionAlarmError: If a threshold was crossed and ``health.on_alarm`` is ``"raise"``.
        """
        self.begin(model, step)
        try:
            yield
        except BaseException:
            self.abandon()
            raise
        self.end()

    def begin(self, model: nn.Module, step: int) -> None:
        """Start a step, for loops that are no ``with`` block."""
        self.abandon()
        self.values, self.alarms = {}, ()
        if step % self.every:
            return
        self._reading = self._samples % self.health.every == 0
        listening = [*self.metrics, self.health] if self._reading else self.metrics
        self._samples += 1
        if listening:
            self._open = ExitStack()
            self._open.enter_context(capture(model, metrics=listening, keep="none", **self._options))

    def end(self) -> None:
        """End the step: read what was captured and act on alarms."""
        if self._open is None:
            return
        opened, self._open = self._open, None
        opened.close()
        if not self._reading:
            return
        try:
            # Also where this process saw nothing: reading is a collective, and the others may have seen something.
            self._read()
        except EmptyMetricError:
            warnings.warn(
                "AttentionMonitor: nothing of this step was captured. If the model is compiled or wrapped after it was handed over, watch "
                "the object that is called; for a Trainer, compile the model yourself (model.compile()) instead of torch_compile=True.",
                CaptureWarning,
                stacklevel=2,
            )
        finally:
            self.health.reset()  # each sample speaks for itself; an average over the run would hide a collapse

    def abandon(self) -> None:
        """Leave a step that did not come to its end; nothing stays on the model."""
        opened, self._open = self._open, None
        if opened is not None:
            error = RuntimeError("abandoned")
            opened.__exit__(RuntimeError, error, None)  # as an exception: the capture must not complain of layers that never ran
            self.health.reset()

    def _read(self) -> None:
        table = self.health.compute()
        self.values = bounded_values(table, self.per)
        self.heads = {name: getattr(table, name).cpu().numpy() for name in QUANTITIES}
        self.alarms = self.health.check()
        self.values["attviz/alarms"] = float(len(self.alarms))


def bounded_values(table: HealthTable, per: Per) -> dict[str, float]:
    """Turn a table into numbers for a logger: five keys per layer, or five in all; what was not seen has no key."""
    layers = table.per_layer()
    values: dict[str, float] = {}
    for name in QUANTITIES:
        column = getattr(layers, name)
        seen = column[~column.isnan()]
        if per == "layer":
            values |= {f"attviz/{name}/layer_{index:02d}": float(value) for index, value in enumerate(column.tolist()) if value == value}
        elif len(seen):
            reduced = seen.min() if name.startswith("min_") else seen.max() if name.startswith("max_") else seen.mean()
            values[f"attviz/{name}"] = float(reduced)
    return values
