"""Watch a model's attention in training: every N-th step is captured, the others run untouched."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from attviz._capture import capture
from attviz.errors import ArgumentError, CaptureWarning, EmptyMetricError
from attviz.hooks.scope.model_map import is_compiled
from attviz.metrics.attention_health import AttentionHealth
from attviz.metrics.health_table import QUANTITIES, HealthTable

if TYPE_CHECKING:
    import numpy as np

    from attviz.metrics.alarms import Alarm
    from attviz.protocols import Listener

Per = Literal["layer", "model"]
_CAPTURE_OPTIONS = ("layers", "token_ids")


class AttentionMonitor:
    """Capture every N-th training step, reduce it to a bounded set of numbers, and raise the alarms.

    Between captured steps nothing is attached to the model. Evaluation inside the training loop is not captured.

    There is one clock, ``every``, which counts optimizer steps. A captured step of a compiled model runs without the compiler, because
    compiled code may have no attention operator left (with dropout on a CPU it has none). Its results can then differ in the last bits
    from the compiled code. ``run_compiled=True`` keeps the compiled code and captures what can be seen from outside.

    Args:
        every: Capture every N-th optimizer step.
        health: Quantities, thresholds and the action on an alarm.
        metrics: Further streaming metrics, fed at each captured step and never reset; read them at any time.
        per: Keys for each ``"layer"`` (five per layer) or for the ``"model"`` (five in all). Heads never become keys: see ``heads``.
        strict: Raise if a layer ran unseen. By default this is a warning, so that monitoring never ends a run.
        run_compiled: Run the captured steps of a compiled model compiled as well.
        **capture_options: Further options of :func:`attviz.capture`, such as ``layers=`` or ``token_ids=``.

    Raises:
        ArgumentError: If an option is invalid.

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
        metrics: Sequence[Listener] | Listener = (),
        per: Per = "layer",
        strict: bool = False,
        run_compiled: bool = False,
        **capture_options: Any,
    ) -> None:
        if type(every) is not int or every < 1:
            raise ArgumentError(f"AttentionMonitor: every must be an integer of at least 1, got {every!r}.")
        if per not in get_args(Per):
            raise ArgumentError(f"AttentionMonitor: per must be one of {', '.join(map(repr, get_args(Per)))}, got {per!r}.")
        _check_options(capture_options)
        self.every, self.per, self.run_compiled = every, per, run_compiled
        self.health = AttentionHealth() if health is None else health
        if self.health.every_forwards != 1:
            raise ArgumentError(
                f"AttentionMonitor: every={every} decides which steps are captured; every_forwards={self.health.every_forwards} of "
                "AttentionHealth would be a second clock. Omit it."
            )
        self.metrics = list(metrics) if isinstance(metrics, Sequence) else [metrics]
        self.values: dict[str, float] = {}
        self.heads: dict[str, np.ndarray] = {}
        self.alarms: tuple[Alarm, ...] = ()
        self._options = {**capture_options, "strict": strict}
        self._open: ExitStack | None = None
        self._step: int | None = None  # the captured step that is under way

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

    def begin(self, model: nn.Module, step: int, *, compiled: bool = False) -> None:
        """Start a step, or continue one after :meth:`pause`; for loops that cannot use a ``with`` block.

        Args:
            model: What the loop calls.
            step: Number of the optimizer step.
            compiled: Whether a compiled wrapper around ``model`` runs, which the loop does not pass in.
        """
        if self._step != step or self._open is not None:
            self.abandon()
            self.values, self.alarms = {}, ()
        if step % self.every:
            return
        with ExitStack() as opening:
            if not self.run_compiled and (compiled or any(is_compiled(module) for module in model.modules())):
                opening.enter_context(torch.compiler.set_stance("force_eager"))
            opening.enter_context(capture(model, metrics=[*self.metrics, self.health], keep="none", **self._options))
            self._step, self._open = step, opening.pop_all()

    @property
    def active(self) -> bool:
        """Whether a captured step is under way."""
        return self._step is not None

    def pause(self) -> None:
        """Remove everything from the model in the middle of a step, because other code may run it between micro-batches."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.close()

    def end(self) -> None:
        """End the step: read what was captured and act on alarms."""
        if self._step is None:
            return
        try:
            self.pause()
            # Also where this process saw nothing: reading is a collective, and the others may have seen something.
            self._read()
        except EmptyMetricError:
            warnings.warn(
                "AttentionMonitor: nothing was captured in this step. Watch the model whose forward runs: the one that was passed, or "
                "one that wraps it. With run_compiled=True a compiled model may show no attention; omit it.",
                CaptureWarning,
                stacklevel=2,
            )
        finally:
            self._step = None
            self.health.reset()  # each sample speaks for itself; an average over the run would hide a collapse

    def abandon(self) -> None:
        """Abandon a step that did not finish; nothing stays on the model."""
        opened, self._open, self._step = self._open, None, None
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
    """Turn a table into numbers for a logger: five keys per layer, or five in all; missing values have no key."""
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


def _check_options(options: dict[str, Any]) -> None:
    """Refuse typos, and options that the monitor sets itself, at construction: the first captured step would be too late."""
    unknown = sorted(set(options) - set(_CAPTURE_OPTIONS))
    if set(unknown) & {"keep", "metrics"}:
        raise ArgumentError(f"AttentionMonitor: {', '.join(unknown)} is set by the monitor itself. Options: {', '.join(_CAPTURE_OPTIONS)}.")
    if unknown:
        raise ArgumentError(
            f"AttentionMonitor: unknown option {', '.join(unknown)}. Options of attviz.capture that it passes on: "
            f"{', '.join(_CAPTURE_OPTIONS)}."
        )
