"""Which tensors the Triton twins handle, and what happens when one fails: the torch implementation of each operator handles the rest."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from attviz.errors import AttvizError, CaptureWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Result = TypeVar("Result")

MAX_HEAD_DIM = 256  # beyond, the tiles no longer fit the registers
MAX_HEAD_DIM_SINGLE = 128  # the same where float32 tiles meet the matrix instruction


def on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor is on CUDA or ROCm, where launches dominate the cost and a Triton twin can be used."""
    return tensor.is_cuda


@functools.cache
def has_triton() -> bool:
    """Whether the triton package is installed; it is not imported here."""
    return importlib.util.find_spec("triton") is not None


def triton_serves(tensor: Tensor, head_dim: int = 0, matrix: bool = False) -> bool:
    """Whether the Triton twin can be used: not for float64, which it would round, nor for heads too wide for its tiles.

    Args:
        tensor: The query, or whatever input decides the dtype.
        head_dim: Width of a head; 0 if the kernel has none.
        matrix: The kernel uses the matrix instruction.
    """
    widest = MAX_HEAD_DIM_SINGLE if matrix and tensor.dtype is torch.float32 else MAX_HEAD_DIM
    return has_triton() and tensor.dtype is not torch.float64 and head_dim <= widest


class NoTile(Exception):
    """No tile of a kernel fits an architecture's registers and shared memory, or it has no matrix instruction, so torch is used."""


_failed: set[tuple[str, torch.dtype, int]] = set()
_warned: set[tuple[str, str]] = set()


def twin(
    operator: str, kind: tuple[torch.dtype, int], serves: bool, launch: Callable[[], Result], in_torch: Callable[[], Result]
) -> Result:
    """The result of the Triton twin, or that of torch if the twin cannot be used, compiled or launched.

    A failure (no C compiler on the machine, too little shared memory, a driver that is too old) causes one warning per operator and
    cause, and is not tried again for its kind.

    Args:
        operator: Its name, for the warning.
        kind: Dtype and size (of a head, or number of heads) for which a kernel is compiled separately.
        serves: Whether the twin can be used for this input at all.
        launch: The twin.
        in_torch: The implementation in torch.
    """
    if not serves or (operator, *kind) in _failed:
        return in_torch()
    try:
        return launch()
    except NoTile:
        return in_torch()
    except (AttvizError, torch.OutOfMemoryError):
        raise  # a fault of the arguments, or no memory for the result: torch would say the same
    except Exception as error:
        _failed.add((operator, *kind))
        _warn(operator, error)
    return in_torch()


def twin_of(operator: str, home: str, in_torch: Callable[..., Result], *, matrix: bool = False) -> Callable[..., Result]:
    """What an operator whose first argument is a query runs on CUDA: its twin, or torch.

    Args:
        operator: Its name, for the warning.
        home: The module of ``attviz.kernels.triton`` that has the ``launch``; imported at the first call.
        in_torch: The implementation in torch.
        matrix: The kernel uses the matrix instruction.
    """

    def run(query: Tensor, *rest: Any) -> Result:
        def launch() -> Result:
            found: Result = importlib.import_module(f"attviz.kernels.triton.{home}").launch(query, *rest)
            return found

        serves = triton_serves(query, query.shape[3], matrix)
        return twin(operator, (query.dtype, query.shape[3]), serves, launch, lambda: in_torch(query, *rest))

    return run


def _warn(operator: str, error: Exception) -> None:
    cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if (operator, cause) in _warned:
        return
    _warned.add((operator, cause))
    warnings.warn(
        f"attviz: the Triton kernel of {operator} could not be compiled or launched, so torch computes it instead "
        "(slower, but correct). Cause: "
        f"{cause}\n  Triton needs a C compiler (apt-get install gcc) and a driver that fits it; python -m torch.utils.collect_env "
        "shows both. If they are there, please report this.",
        CaptureWarning,
        stacklevel=4,
    )


def forget_failures() -> None:
    """Try every twin again, for instance after a C compiler was installed."""
    _failed.clear()
    _warned.clear()
