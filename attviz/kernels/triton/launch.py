"""What every launch needs: the device, its architecture, and block sizes."""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import triton

from attviz.kernels.twins import NoTile
from attviz.modes import outside_inference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

_HERE = contextlib.nullcontext()
TABLE = Path(__file__).with_name("tuning.json")


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device: make it the tensor's."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device_of(tensor)


@functools.cache
def architecture(device_index: int | None) -> str:
    """Name of a GPU's architecture as the tuning table spells it: ``"sm_90"``, ``"gfx942"``; ``"cpu"`` in the interpreter."""
    if device_index is None:
        return "cpu"
    properties = torch.cuda.get_device_properties(device_index)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@functools.cache
def _table() -> Mapping[str, Mapping[str, Mapping[str, int] | None]]:
    rows: Mapping[str, Mapping[str, Mapping[str, int] | None]] = json.loads(TABLE.read_text())["kernels"]
    return rows


# Architectures without rows of their own that are built like one with rows: the same registers and shared memory of a multiprocessor.
_ALIKE = {
    **{"sm_87": "sm_80", "sm_103": "sm_100", "sm_110": "sm_100", "sm_121": "sm_120"},
    **{"gfx940": "gfx942", "gfx941": "gfx942", "gfx908": "gfx90a"},
    **dict.fromkeys(("gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1200", "gfx1201"), "gfx1100"),
}


@functools.cache
def tuned(kernel: str, arch: str, head_pad: int, single: bool = False) -> Mapping[str, Any]:
    """Block sizes, warps and stages from the committed table: the row of this architecture, else of a similar one, else the default row.

    Args:
        kernel: ``"logsumexp"``, ``"qk"``, ``"qk_bias"`` (a tile of bias takes registers, so the tiles are smaller), ``"received"``
            or ``"mass"``.
        arch: From :func:`architecture`.
        head_pad: ``head_dim`` rounded up to a power of two.
        single: The inputs are float32, whose tiles are twice as large.

    Raises:
        NoTile: If the table says that torch is better on this architecture.
    """
    rows = _table()[kernel]
    size = f"{'float32' if single else 'half'}/{head_pad}"
    for known in (arch, _ALIKE.get(arch, arch), "default"):
        if f"{known}/{size}" in rows:
            row = rows[f"{known}/{size}"]
            if row is None:
                raise NoTile(f"{kernel} {known}/{size}")
            return row
    raise KeyError(f"{kernel} default/{size}")


_KEPT = 512  # compiled kernels by what they were specialised for; a generation makes a new one a step, for its strides grow
_kept: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


def start(kernel: Any, programs: int, key: tuple[Any, ...], arguments: tuple[Any, ...], constants: Callable[[], dict[str, Any]]) -> None:
    """Launch a kernel; with a known key this skips the just-in-time dispatch, which takes longer than the kernel.

    Args:
        kernel: The function under ``triton.jit``, whose constants come after all other parameters.
        programs: Number of programs.
        key: Everything the compiler specialises on: kernel, dtypes, strides, alignment, device, constants; not numbers under
            ``do_not_specialize``.
        arguments: All other parameters, in order.
        constants: Returns the constants by name, with the options of the launch; called at the first launch only.
    """
    kept = _kept.get(key)
    if kept is not None:
        kept[0][programs, 1, 1](*arguments, *kept[1])
        return
    given = constants()
    compiled = kernel[(programs,)](*arguments, **given)
    if compiled is None or torch.version.hip is not None:
        return  # on AMD the compiler also looks at the size of a tensor's storage
    if len(_kept) >= _KEPT:
        _kept.clear()
    _kept[key] = compiled, tuple(given[name] for name in kernel.arg_names[len(arguments) :])


def outliving(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Storage for a result that is kept: not an inference tensor, whatever mode the model runs in."""
    if not torch.is_inference_mode_enabled():
        return torch.empty(shape, dtype=torch.float32, device=device)
    with outside_inference():
        return torch.empty(shape, dtype=torch.float32, device=device)


@functools.cache
def head_pad(head_dim: int) -> int:
    """Tile width of a head: a power of two, at least the 16 that a matrix instruction takes."""
    return max(16, int(triton.next_power_of_2(head_dim)))


def bias_strides(bias: Tensor | None) -> tuple[int, int, int, int]:
    """Strides over (batch, head, query, key), 0 wherever the bias broadcasts."""
    if bias is None:
        return 0, 0, 0, 0
    bias = bias[(None,) * (4 - bias.dim())]
    strides = [0 if size == 1 else stride for size, stride in zip(bias.shape, bias.stride(), strict=True)]
    return strides[0], strides[1], strides[2], strides[3]


def row_strides(rows: Tensor | None) -> tuple[int, int, int]:
    """Strides over (batch, head, query) of a tensor with three dimensions, 0 wherever it broadcasts."""
    if rows is None:
        return 0, 0, 0
    strides = [0 if size == 1 else stride for size, stride in zip(rows.shape, rows.stride(), strict=True)]
    return strides[0], strides[1], strides[2]


def is_far(*tensors: Tensor) -> bool:
    """Whether a step along the heads or along a head passes 2**31 elements, so that 32-bit offsets would overflow."""
    return any(tensor.shape[d] * tensor.stride(d) >= 1 << 31 for tensor in tensors for d in (1, tensor.dim() - 1))


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """A bool tensor as uint8 without a copy: one-bit pointers are a rare path of the compiler."""
    return mask.view(torch.uint8) if mask is not None and mask.dtype is torch.bool else mask
