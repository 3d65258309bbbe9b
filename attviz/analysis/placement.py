"""Where a model's inputs belong and its weights are, even if accelerate spreads them over devices or keeps them on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def input_device(model: nn.Module) -> torch.device:
    """The device of the inputs: where accelerate runs the model, else where its first parameter is.

    Under ``device_map`` an offloaded parameter is on the ``meta`` device; the hook that loads it knows where it will run.
    """
    for module in model.modules():
        for hook in _hooks(module):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(f"cuda:{device}" if isinstance(device, int) and torch.cuda.is_available() else device)
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def all_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by name; one that accelerate offloads is read from its storage."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                full = f"{prefix}.{name}" if prefix else name
                yield full, _kept_elsewhere(module, name) if tensor.is_meta else tensor.detach()


def _kept_elsewhere(module: nn.Module, name: str) -> Tensor:
    for hook in _hooks(module):
        weights = getattr(hook, "weights_map", None)
        if weights is not None:
            found: Tensor = weights[name]
            return found
    tensor: Tensor = module.get_parameter(name) if name in module._parameters else module.get_buffer(name)
    return tensor


def _hooks(module: nn.Module) -> list[Any]:
    """The hooks that accelerate put on a module; one hook may contain several."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))
