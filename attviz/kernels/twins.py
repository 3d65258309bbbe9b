"""Which tensors the Triton twins serve; the torch implementation of each operator takes the rest."""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEAD_DIM = 256  # beyond, the tiles no longer fit the registers
MAX_HEAD_DIM_SINGLE = 128  # the same where float32 tiles meet the matrix instruction


@functools.cache
def has_triton() -> bool:
    """Whether the triton package is installed; it is not imported here."""
    return importlib.util.find_spec("triton") is not None


def triton_serves(tensor: Tensor, head_dim: int = 0, matrix: bool = False) -> bool:
    """Whether the Triton twin takes this input: not float64, which it would round, and no head too wide for its tiles.

    Args:
        tensor: The query, or whatever input decides the dtype.
        head_dim: Width of a head; 0 where the kernel has none.
        matrix: The kernel uses the matrix instruction.
    """
    widest = MAX_HEAD_DIM_SINGLE if matrix and tensor.dtype is torch.float32 else MAX_HEAD_DIM
    return has_triton() and tensor.dtype is not torch.float64 and head_dim <= widest
