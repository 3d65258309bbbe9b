"""Where numbers and head maps go: TensorBoard, Weights & Biases, or any logger that takes a dictionary."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from attviz.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

Heads = Literal["histogram", "image"]


class Sink(Protocol):
    """A place that keeps numbers, and per quantity one histogram or one image of the heads."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers by key."""

    def heads(self, name: str, values: np.ndarray, step: int, kind: Heads) -> None:
        """Keep ``[num_layers, num_heads]`` as one histogram or image."""


class TensorBoardSink:
    """A ``SummaryWriter``."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One scalar per key."""
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def heads(self, name: str, values: np.ndarray, step: int, kind: Heads) -> None:
        """One histogram, or one drawn map."""
        if kind == "histogram":
            self.writer.add_histogram(name, values[values == values], step)
        else:
            self.writer.add_figure(name, draw(name, values), step, close=False)


class WandbSink:
    """A Weights & Biases run; ``step_key`` is the x-axis that the training framework uses."""

    def __init__(self, run: Any, step_key: str) -> None:
        self.run, self.step_key = run, step_key

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One entry with all keys."""
        self.run.log({**values, self.step_key: step})

    def heads(self, name: str, values: np.ndarray, step: int, kind: Heads) -> None:
        """One histogram, or one drawn map."""
        import wandb

        drawn = wandb.Histogram(values[values == values]) if kind == "histogram" else wandb.Image(draw(name, values))
        self.run.log({name: drawn, self.step_key: step})


class FunctionSink:
    """A function ``log(values, step)`` of the user, or a logger that takes numbers only."""

    def __init__(self, log: Callable[[dict[str, float], int], object]) -> None:
        self.log = log

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Pass the numbers on."""
        self.log(dict(values), step)

    def heads(self, name: str, values: np.ndarray, step: int, kind: Heads) -> None:
        """Leave the heads out: a dictionary of numbers has no place for them."""


def draw(name: str, values: np.ndarray) -> Any:
    """Draw a head map on its own figure, outside pyplot, so that nothing stays open and no backend is selected."""
    from matplotlib.figure import Figure

    from attviz.plots import head_map

    figure = Figure(figsize=(6, 4), layout="constrained")
    head_map(values, ax=figure.subplots(), label=name, vmin=None)
    return figure


def check_heads(heads: Heads | None, caller: str) -> None:
    """Refuse an unknown kind."""
    if heads not in (None, "histogram", "image"):
        raise ArgumentError(f"{caller}: heads must be one of 'histogram', 'image', None, got {heads!r}.")


def emit(sinks: list[Sink], values: Mapping[str, float], heads: Mapping[str, np.ndarray], step: int, kind: Heads | None) -> None:
    """Pass the numbers to every sink, and the heads on request."""
    for sink in sinks:
        sink.scalars(values, step)
        for name, table in heads.items() if kind else ():
            if (table == table).any():
                sink.heads(f"attviz_heads/{name}", table, step, kind or "histogram")


def tensorboard_folder(output_dir: str) -> Path:
    """The folder of the event file that this process has opened for the run, so that both show as one run.

    The trainer's callbacks do not know each other, but the name of an event file contains the id of its process.
    """
    root = Path(os.path.expanduser(os.environ.get("TENSORBOARD_LOGGING_DIR", output_dir)))
    mine = [path for path in root.rglob("events.out.tfevents.*") if f".{os.getpid()}." in path.name]
    return max(mine, key=lambda path: path.stat().st_mtime_ns).parent if mine else root / "runs" / "attviz"
