"""Sees every attention of a forward, without the code that is being checked: a dispatch mode, and the names of the modules that run."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from attviz.checking.scores import FLEX_ARGUMENTS, NEVER_A_SCORE, SCORES, arguments_of

_MADE_BY_THE_MODEL = ("softmax",)  # these hand the model weights in its own dtype; the fused operators keep theirs to themselves


@dataclass(frozen=True, eq=False)
class Seen:
    """One attention, or another softmax, as its operator saw it.

    Attributes:
        operator: Name in the dispatcher.
        modules: The modules that were running, outermost first, each with the number of its call in this forward.
        shape: Shape of its weights; the last axis holds the keys.
        dtype: Dtype of the operator's result.
        scores: In float64, mask and bias included; None if only position and shape are needed.
    """

    operator: str
    modules: tuple[tuple[str, int], ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    scores: Tensor | None

    @property
    def layer(self) -> str:
        """The innermost module that was running."""
        return self.modules[-1][0] if self.modules else ""

    def call_of(self, layer: str) -> int | None:
        """Which call of ``layer`` this belongs to; None if that module was not running."""
        return next((call for name, call in reversed(self.modules) if name == layer), None)

    @cached_property
    def visible(self) -> Tensor:
        """Keys that no mask hides: masks add -1e4 or less, whose exponential is 0 even in float64."""
        assert self.scores is not None
        weighty = self.scores > self.scores.amax(-1, keepdim=True).clamp_min(-1e300) - 700.0
        return weighty | (self.scores > NEVER_A_SCORE)

    @cached_property
    def weights(self) -> Tensor:
        """The attention weights in float64; 0 in a row that sees no key."""
        assert self.scores is not None
        return self.scores.softmax(-1).nan_to_num(0.0)

    @property
    def rounding(self) -> float:
        """How far a right answer may be off, given the arithmetic of the operator's own dtype.

        A weight that the model itself made in 16 bits is rounded to them (half a step below 1: 2e-3 in bfloat16, 2.5e-4 in float16); a
        fused operator rounds its log-sum-exp.
        """
        made = any(kind in self.operator for kind in _MADE_BY_THE_MODEL)
        steps = {torch.bfloat16: 4e-3 if made else 2e-3, torch.float16: 1e-3}
        return steps.get(self.dtype, 1e-5) + 4 * torch.finfo(torch.float32).eps * self._size

    @cached_property
    def _size(self) -> float:
        """The largest score: a log-sum-exp near it is rounded to eps times it, and so is the logarithm of each weight."""
        assert self.scores is not None
        return float(torch.where(self.visible, self.scores, 0.0).abs().nan_to_num(0.0, posinf=0.0).max())


class Watch(TorchDispatchMode):
    """Records every attention operator that runs under it, on this thread."""

    supports_higher_order_operators = True

    def __init__(self, running: Running, *, with_scores: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Seen] = []
        self._running, self._with_scores = running, with_scores

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Observe, and return the operator's own result."""
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            if func.name() != "flex_attention":
                return func(*args, **kwargs)
            self._write("flex_attention", {**dict(zip(FLEX_ARGUMENTS, args, strict=False)), **kwargs})
            return func(*args, **kwargs)
        name = func._schema.name
        if name in SCORES:
            self._write(name, arguments_of(func, args, kwargs))
        return func(*args, **kwargs)

    def _write(self, operator: str, given: dict[str, Any]) -> None:
        source = next(given[name] for name in ("query", "src", "self") if name in given)
        if source.ndim < 2 or not source.is_floating_point() or "int" in str(source.dtype):
            return
        dtype = torch.float32 if given.get("half_to_float") else given.get("dtype") or source.dtype
        with torch.no_grad():
            scores = SCORES[operator](given)
        kept = scores.detach() if self._with_scores else None
        self.seen.append(Seen(operator, self._running.stack, tuple(scores.shape), dtype, kept))


class Running:
    """The modules that are running now, tracked by global module hooks."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._calls: Counter[str] = Counter()
        self._open: list[tuple[str, int] | None] = []

    @property
    def stack(self) -> tuple[tuple[str, int], ...]:
        """Names and call numbers, outermost first."""
        return tuple(entry for entry in self._open if entry is not None)

    def _enter(self, module: nn.Module, args: Any) -> None:
        name = self._names.get(id(module))
        if name is None:
            self._open.append(None)
            return
        self._open.append((name, self._calls[name]))
        self._calls[name] += 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._open:
            self._open.pop()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep the stack up to date while the context is open."""
        entering = register_module_forward_pre_hook(self._enter)
        leaving = register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            entering.remove()
            leaving.remove()


@contextmanager
def watching(model: nn.Module, *, with_scores: bool = True) -> Iterator[list[Seen]]:
    """Every attention that runs inside, in order.

    Compiled parts run uncompiled: what their generated code calls differs by machine and version.
    """
    running = Running(model)
    with (
        warnings.catch_warnings(),
        running.followed(),
        torch.compiler.set_stance("force_eager"),
        Watch(running, with_scores=with_scores) as watch,
    ):
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")  # on purpose, see above
        yield watch.seen
