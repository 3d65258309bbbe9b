"""What is running: one execution of a hooked module, and the state of a thread."""

from __future__ import annotations

import threading
from typing import Any

import torch

from attviz.hooks.scope.evidence import Followed, Situation
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.step import Step


class LayerScope:
    """One execution of a hooked module."""

    __slots__ = ("aside", "before", "count", "followed", "name", "reason", "seen", "situation")

    def __init__(self, name: str, situation: Situation) -> None:
        self.name, self.situation, self.seen, self.count = name, situation, False, 0
        self.followed: Followed | None = None  # where this call is followed by itself
        self.before = (0, 0)  # exponentials and products that the followed forward had seen before it
        self.reason: str | None = None  # why one of its attention calls has no diagonal
        self.aside: str | None = None  # what an operator that is no attention said; counts only if nothing else was seen


class ThreadState(threading.local):
    """State of one thread, for one capture."""

    def __init__(self) -> None:
        self.depth = 0
        self.scopes: list[LayerScope] = []
        self.contexts: list[TokenContext] = []
        self.step: Step | None = None  # of the running container
        self.foreign = 0  # attention operators that ran on this thread outside the model
        self.followed: Followed | None = None  # while a call is followed
        self.counts: dict[tuple[str, int], int] = {}  # attention calls of modules that have no hook yet, in the running forward


def had_nothing_to_do(args: tuple[Any, ...], output: Any) -> bool:
    """Whether a module was given an empty batch, or returned what it was given."""
    if any(output is given for given in args):
        return True
    return not torch._C._is_tracing() and any(isinstance(given, torch.Tensor) and not given.numel() for given in args)
