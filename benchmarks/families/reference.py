"""The independent reference: the model itself, eager and in float64, with every softmax written down under the module that ran it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

_SOFTMAXES = (torch.softmax, F.softmax, Tensor.softmax, torch.special.softmax)


@dataclass(frozen=True, eq=False)
class Seen:
    """One softmax over the last dimension, under the qualified name of the innermost module that ran it."""

    module: str
    weights: Tensor


@dataclass(frozen=True, eq=False)
class Reference:
    """What a float64 eager forward did.

    Attributes:
        seen: Every softmax, in order.
        reported: The model's own ``output_attentions`` that are square and not of cross-attention.
    """

    seen: tuple[Seen, ...]
    reported: tuple[Tensor, ...]

    @property
    def trusted(self) -> tuple[Tensor, ...]:
        """The reported attentions that did come out of a softmax (some models report scores, or a slice)."""
        return tuple(
            weights
            for weights in self.reported
            if any(seen.weights.shape == weights.shape and torch.equal(seen.weights, weights.to(seen.weights.dtype)) for seen in self.seen)
        )


class _Softmaxes(TorchFunctionMode):
    def __init__(self, running: list[str]) -> None:
        self.seen: list[Seen] = []
        self._running = running

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            wanted, average = kwargs.get("need_weights", True), kwargs.get("average_attn_weights", True)
            output, weights = func(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
            self.seen.append(Seen(self._running[-1], weights.detach()))
            return output, (weights.mean(1) if average else weights) if wanted else None
        result = func(*args, **kwargs)
        if func in _SOFTMAXES:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if result.ndim >= 3 and dim in (-1, result.ndim - 1):
                self.seen.append(Seen(self._running[-1], result.detach().clone()))
        return result

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Scaled dot-product attention as its documentation writes it, so that its weights are seen."""
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).tril().logical_not(), float("-inf"))
        if attn_mask is not None:
            scores = scores.masked_fill(attn_mask.logical_not(), float("-inf")) if attn_mask.dtype is torch.bool else scores + attn_mask
        weights = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True)).nan_to_num(0.0)
        self.seen.append(Seen(self._running[-1], weights.detach()))
        return weights.to(value.dtype) @ value


@torch.no_grad()
def run_reference(model: nn.Module, inputs: dict[str, Any]) -> Reference:
    """Run an eager model and write its softmaxes down."""
    torch.manual_seed(1)
    names = {id(module): name for name, module in model.named_modules()}
    running = [""]
    with ExitStack() as stack:
        stack.callback(register_module_forward_pre_hook(lambda module, args: running.append(names.get(id(module), running[-1]))).remove)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            running.pop()

        stack.callback(register_module_forward_hook(leave, always_call=True).remove)
        mode = stack.enter_context(_Softmaxes(running))
        outputs = _call(model, inputs)
    return Reference(tuple(mode.seen), tuple(_reported(outputs)))


def _call(model: nn.Module, inputs: dict[str, Any]) -> Any:
    try:
        return model(**inputs, output_attentions=True)
    except (TypeError, ValueError):  # it has no such parameter
        torch.manual_seed(1)
        return model(**inputs)


def _reported(outputs: Any) -> list[Tensor]:
    if not hasattr(outputs, "items"):
        return []
    found: list[Tensor] = []
    for name, value in outputs.items():
        if hasattr(value, "items"):
            found += _reported(value)
        elif "attentions" in name and "cross" not in name:
            found += [x for x in _flat(value) if x.ndim == 4 and x.shape[-1] == x.shape[-2]]
    return found


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _flat(item)] if isinstance(value, (tuple, list)) else []
