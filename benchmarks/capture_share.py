"""The time a forward spends in our code, by a clock around it.

Two forwards of one model differ by several percent on a shared machine, more than a capture costs. Both terms of this ratio come from
the same forward, so it is steady. It leaves out what our presence costs inside PyTorch: its hook machinery, and the way into and out of
the overridden operator, a few microseconds for each attention.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

import attviz
from attviz.hooks.session.observer import Observer

_TIMED = ("enter", "leave", "enter_layer", "leave_layer", "listening", "observe")


def steady(model: nn.Module, inputs: dict[str, Tensor], forwards: int) -> tuple[list[float], list[float]]:
    """Ratio (rest + ours) / rest and seconds of the rest, for each forward of an open context after the first."""
    ratios, rests = [], []
    with attviz.capture(model), _clock() as ours:
        model(**inputs)  # the first forward finds out which modules attend
        for _ in range(forwards):
            ours[0] = 0.0
            start = time.perf_counter()
            model(**inputs)
            whole = time.perf_counter() - start
            ratios.append(whole / (whole - ours[0]))
            rests.append(whole - ours[0])
    return ratios, rests


def whole(model: nn.Module, inputs: dict[str, Tensor], forwards: int) -> tuple[list[float], list[float]]:
    """The same for entering, one forward, leaving and reading the diagonals."""
    ratios, rests = [], []
    for _ in range(forwards):
        start = time.perf_counter()
        cap = attviz.capture(model)
        cap.__enter__()
        before = time.perf_counter() - start
        with _clock() as ours:
            start = time.perf_counter()
            model(**inputs)
            rest = time.perf_counter() - start - ours[0]
        start = time.perf_counter()
        cap.__exit__(None, None, None)
        _ = cap.diagonal
        ratios.append(1 + (before + ours[0] + time.perf_counter() - start) / rest)
        rests.append(rest)
    return ratios, rests


@contextmanager
def _clock() -> Iterator[list[float]]:
    """Seconds spent in what hooks and tap call, in the one entry of the list."""
    spent = [0.0]
    originals = {name: getattr(Observer, name) for name in _TIMED}

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args)
            finally:
                spent[0] += time.perf_counter() - start

        return run

    for name, method in originals.items():
        setattr(Observer, name, timed(method))
    try:
        yield spent
    finally:
        for name, method in originals.items():
            setattr(Observer, name, method)
