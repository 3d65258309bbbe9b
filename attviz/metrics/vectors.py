"""How every function over vectors reads a diagonal: which axes are vectors, and whether it is a diagonal at all."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from attviz.errors import ArgumentError, DtypeError, ShapeError

Over = Literal["heads and layers", "heads", "layers"]


def vectors_last(diagonal: Tensor, over: Over, caller: str) -> Tensor:
    """Move the chosen vectors of every token into one last axis; half precision becomes float32.

    Args:
        diagonal: ``[num_layers, batch, num_heads, q_len]``, or ``[batch, num_heads, q_len]`` for one layer.
        over: Which axes count as vectors.
        caller: Name of the public function, for the message.

    Returns:
        ``[batch, q_len, vectors]``; with ``over="heads"`` of several layers ``[num_layers, batch, q_len, vectors]``, with
        ``over="layers"`` ``[batch, num_heads, q_len, vectors]``.
    """
    if over not in get_args(Over):
        raise ArgumentError(f"{caller}: over must be one of {', '.join(repr(choice) for choice in get_args(Over))}, got {over!r}.")
    check_diagonal(diagonal, caller)
    if diagonal.dtype in (torch.float16, torch.bfloat16):
        diagonal = diagonal.float()
    if diagonal.ndim == 3:
        if over == "layers":
            raise ShapeError(
                f"{caller}: over='layers' needs [num_layers, batch, num_heads, q_len], but this is the diagonal of one layer, "
                f"{_sizes(diagonal)}. Pass cap.diagonal, or over='heads'."
            )
        return diagonal.transpose(1, 2)
    if over == "heads":
        return diagonal.transpose(2, 3)
    if over == "layers":
        return diagonal.permute(1, 2, 3, 0)
    return diagonal.permute(1, 3, 0, 2).flatten(2)


def check_diagonal(diagonal: object, caller: str) -> None:
    """Refuse what cannot be a diagonal: not a tensor, not floating point, not three or four axes, or empty."""
    if not isinstance(diagonal, Tensor):
        raise DtypeError(
            f"{caller}: the diagonal must be a torch.Tensor, got {type(diagonal).__name__}. "
            "Pass cap.diagonal or record.diagonal; a NumPy array through torch.from_numpy."
        )
    if not diagonal.is_floating_point():
        raise DtypeError(f"{caller}: the diagonal holds probabilities in a floating dtype, got {diagonal.dtype}. Call .float() on it.")
    if diagonal.ndim not in (3, 4):
        raise ShapeError(
            f"{caller}: the diagonal has axes [num_layers, batch, num_heads, q_len], or [batch, num_heads, q_len] for one layer; "
            f"got {diagonal.ndim} axes, {tuple(diagonal.shape)}. For a single text, pass diagonal.unsqueeze(-3)."
        )
    if diagonal.shape[-2] == 0 or (diagonal.ndim == 4 and diagonal.shape[0] == 0):
        raise ShapeError(f"{caller}: the diagonal {_sizes(diagonal)} is empty: it needs at least one layer and one head.")


def _sizes(diagonal: Tensor) -> str:
    names = ("num_layers", "batch", "num_heads", "q_len")[-diagonal.ndim :]
    return " ".join(f"{name}={size}" for name, size in zip(names, diagonal.shape, strict=True))
