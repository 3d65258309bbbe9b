"""PyTorch's modes around our own work."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def outside_inference() -> AbstractContextManager[object]:
    """A context whose tensors are no inference tensors, because they are kept.

    Where inference mode is off, nothing is entered: Ctrl-C inside the exit of ``torch.inference_mode`` leaves its guard to the garbage
    collector, which then puts back what held inside the operator, and the thread computes no more gradients.
    """
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
