"""Follows a forward: a dispatch mode that runs every operator unchanged and tracks the axes of the inputs.

Values, random numbers and gradients are untouched: each operator runs once, with its own arguments. Compiled functions run as compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from attviz.hooks.scope.follow.axes import Axis, Symbols, crossed, learned, roots_of, sources
from attviz.hooks.scope.follow.buffers import write
from attviz.hooks.scope.follow.inputs import name_inputs
from attviz.hooks.scope.follow.rules import axes_after, base_name
from attviz.hooks.scope.follow.trace import Pair, SeenSoftmax, Trace, Traces, Weights, flat_tensors, is_product, one_for_all, traceable
from attviz.hooks.scope.follow.views import MOVING, taken_from
from attviz.hooks.scope.follow.weights import weights_after

_LIMIT = 200_000  # operators; a forward that runs more is not followed to its end
_EXPONENTIALS = frozenset("exp exp2 _softmax _safe_softmax softmax".split())
_ATTENDING = frozenset("flex_attention _native_multi_head_attention _transformer_encoder_layer_fwd".split())
_NOISE = frozenset("bernoulli uniform normal".split())
_DRAWN = frozenset("rand randn rand_like randn_like".split())


_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_AS_WITHOUT_A_MODE = tuple(
    getattr(torch._C.DispatchKey, name) for name in ("ADInplaceOrView", "Conjugate", "Negative", "ZeroTensor", "PythonTLSSnapshot")
)


class Follow(TorchDispatchMode):
    """One followed forward. Faults in our bookkeeping end it quietly (``broken``); they never reach the user's forward.

    Attributes:
        broken: What went wrong in the bookkeeping; nothing is concluded from a broken one.
        unseen: Modules in which tokens were weighed by exponentials, or by rows that sum to one, that no attention operator showed.
        plain: Modules in which tokens were weighed by products of tokens without a softmax.
        softmax: Set while a softmax runs that is taken for attention.
        exponentials: Number of operators so far that could be part of a softmax, or that are not torch's own.
        products: Number of products of two tensors that both depend on the inputs.
        inside: Query and key of the running operator, if it calls others for its scores.
        where: Returns the running module; None if that is known by other means.
    """

    supports_higher_order_operators = True

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Compiled functions run compiled."""
        return True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled functions run compiled."""
        return True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.symbols = Symbols()
        self.traces = Traces(self.symbols)
        self.broken: Exception | None = None
        self.unseen: list[Any] = []
        self.plain: list[Any] = []
        self.softmax: SeenSoftmax | None = None  # set by whoever takes the running softmax for attention
        self.where: Callable[[], Any] = lambda: None
        self.exponentials = self.products = 0
        self._steps = 0

    # ---- life

    def start(self) -> None:
        """Follow what this thread runs from now on."""
        self.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Stop following, even if another mode was left on top."""
        if _python_dispatch._get_current_dispatch_mode() is self:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self.traces.clear()

    def enter(self, inputs: Iterable[Any]) -> None:
        """Name the axes of a call's inputs. Equal tensors are one input."""
        with _quietly(self):
            name_inputs(self.traces, inputs)

    # ---- the mode

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run the operator, then track what it did."""
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and _is_composite(func, args):
            return self._taken_apart(func, args, kwargs)
        self.softmax = None
        self.inside = (args[0], args[1]) if base_name(func) == "flex_attention" else None
        out = func(*args, **kwargs)
        if self.broken is None:
            self._steps += 1
            with _quietly(self):
                if self._steps > _LIMIT:
                    raise RuntimeError("a forward of too many operators to follow")
                self._note(func, args, kwargs, out)
        return out

    def _taken_apart(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Decompose a composite operator as PyTorch would without a mode, so that its parts are seen here.

        Normally autograd does that before a mode is called. Under inference mode a mode receives the whole operator, with views switched
        off; run that way, a matrix product takes another path and differs in the last bits.
        """
        with ExitStack() as state:
            for key in _AS_WITHOUT_A_MODE:
                state.enter_context(torch._C._SetExcludeDispatchKeyGuard(key, False))
            state.enter_context(self)
            return func._op_dk(_COMPOSITE, *args, **kwargs)

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        traces, name = self.traces, base_name(func)
        fresh = name.endswith("_like") or name.startswith("new_")
        given = [] if fresh else [traces[tensor] for tensor in flat_tensors((args, kwargs)) if traceable(tensor)]
        if not given:
            for tensor in flat_tensors(out):
                if traceable(tensor):
                    traces.name(tensor, "made", noise=name in _DRAWN)
            return
        streams = frozenset().union(*(trace.streams for trace in given))
        learned_from = frozenset[int]() if streams else frozenset[int]().union(*(trace.learned_from for trace in given))
        pair, weights, exponential = None, None, any(trace.exponential for trace in given)
        taken = frozenset[tuple[Axis, int]]().union(*(trace.taken for trace in given))
        noise = name in _NOISE or (all(trace.noise for trace in given) and bool(given))
        if name in ("bmm", "baddbmm", "mm", "addmm"):
            one, two = (traces[tensor] for tensor in (args[-2:] if name in ("baddbmm", "addmm") else args[:2]))
            batched = "b" in name[:1]
            other = batched and (crossed(one.axes[:1], two.axes[:1]) or one_for_all(one, two, 1))
            ends = (one.axes[-2], two.axes[-1])
            kept = any(symbol.kept for side in (one, two) if not side.streams for axis in side.axes for symbol in axis)
            pair = Pair(one.streams, two.streams, other, one.buffered or two.buffered, sources(one.axes[-1]), one.learned_from, *ends, kept)
            self.products += bool(one.streams and two.streams)
            exponential = False
            if self._mixes_tokens(name, args, one, two):
                streams |= {self.symbols.fresh()}
        elif name.startswith("_scaled_dot_product") or name in _ATTENDING:
            streams |= {self.symbols.fresh()}
        else:
            pair = next((trace.pair for trace in given if trace.pair is not None), None)
            if name == "mul" and any(trace.pair is not None and not trace.exponential for trace in given):
                exponential = False  # scores with a decay, not their exponentials
            weights = weights_after(traces, name, args, given, out)
        foreign = not str(func).startswith("aten.")
        self.exponentials += foreign or name in _EXPONENTIALS or name == "_log_softmax" or name.startswith("_scaled_dot_product")
        if name in _EXPONENTIALS:
            exponential = True
            if self.softmax is not None:
                dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
                weights = Weights(self.softmax, dim % max(args[0].ndim, 1))
        elif name in ("sum", "mean", "native_layer_norm", "embedding", "convolution"):
            exponential = False
        buffered = name in MOVING and any(trace.buffered for trace in given)
        single = taken_from(traces, name, args, kwargs, out)
        for place, (tensor, axes) in enumerate(axes_after(traces, func, args, kwargs, out)):
            if taken and name in ("stack", "cat"):
                taken = frozenset(each for each in taken if each[0] not in axes)  # all of them stand there again
            own = taken | single[place] if single else taken
            traces[tensor] = Trace(axes, streams, pair, weights, exponential, noise, own, buffered, learned_from)
        if name in ("copy", "index_put", "index_copy"):
            write(traces, name, args, out)

    def _mixes_tokens(self, name: str, args: tuple[Any, ...], one: Trace, two: Trace) -> bool:
        """Whether a product sums over tokens with weights that come from an exponential."""
        mixed = False
        ends = ((one, two, len(one.axes) - 1, len(one.axes) - 2), (two, one, len(two.axes) - 2, len(two.axes) - 1))
        for (trace, other, contracted, kept), tensor in zip(ends, args[-2:] if name in ("baddbmm", "addmm") else args[:2], strict=True):
            if one.weights is not None and two.weights is not None:
                one.weights.softmax.used.append("a product of two softmaxes")
                two.weights.softmax.used.append("a product of two softmaxes")
                return True
            # of the keys' tokens, whatever they hold (DETR: zeros, or what was learned)
            values = other.streams or self.symbols.have_met(trace.axes[contracted], other.axes[kept])
            if trace.weights is not None and not values:  # heads are mixed (talking heads); no values are weighed
                trace.weights.softmax.used.append(trace.weights.changed or "a product with learned weights")
            elif trace.weights is not None:
                wrong = trace.weights.axis is not None and trace.weights.axis != contracted
                trace.weights.softmax.used.append(trace.weights.changed or ("a sum over the queries" if wrong else ""))
                mixed = True
            elif _among_tokens(trace, contracted, kept):
                where = self.where()
                shown = self.unseen if trace.exponential or _is_softmax(tensor, contracted) else self.plain
                shown.extend([] if where is None else [where])
                mixed = True
        return mixed


def _among_tokens(trace: Trace, contracted: int, kept: int) -> bool:
    """Whether a factor of a product weighs tokens for each token: exponentials of whatever, or a product of tokens with tokens."""
    one, two = trace.axes[contracted], trace.axes[kept]
    if not one or not two or learned(two) or not (trace.exponential or is_product(trace.pair)):
        return False
    return one == two or (is_product(trace.pair) and bool(roots_of(one) & roots_of(two)))


def _is_softmax(weights: Tensor, dim: int) -> bool:
    """Whether rows are those of a softmax, however they were made: none negative, each with the sum of one, or empty."""
    weights = weights.detach().float()
    total = weights.sum(dim)
    return bool((weights >= 0).all()) and bool((((total - 1.0).abs() < 1e-3) | (total == 0)).all()) and bool(total.any())


def _is_composite(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator is a composite of others on the device of its arguments."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if not hasattr(func, "_op_dk") or not has(func.name(), _COMPOSITE):
        return False
    tensors = flat_tensors(args)
    return all(traceable(tensor) and not has(func.name(), tensor.device.type.upper()) for tensor in tensors)


class _quietly:  # a context manager that is used like a statement
    """End the bookkeeping if it fails."""

    def __init__(self, follow: Follow) -> None:
        self._follow = follow

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            self._follow.broken = error
            self._follow.traces.clear()
            return True
        return False
