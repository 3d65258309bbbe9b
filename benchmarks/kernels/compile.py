"""Compile a kernel ahead of time, without a GPU, exactly as its launch function would on one.

The launch functions run on ``meta`` tensors with the launch itself recorded instead of made; from the recorded arguments follows the
specialisation that Triton's just-in-time compiler would choose (an int of 1 becomes a constant, a multiple of 16 is told as such).
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Recorded:
    """One launch: the kernel, its arguments by name, and the compile options among them."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What a compiled kernel takes of the machine; ``matrix`` and ``vector`` are counts of instructions."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    matrix: int
    vector_loads: int
    scalar_loads: int


@contextlib.contextmanager
def recording(arch: str) -> Iterator[list[Recorded]]:
    """Replace launches by records, and let the launch functions believe that they are on ``arch``."""
    records: list[Recorded] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        arguments = dict(zip(kernel.arg_names, args, strict=False))
        arguments |= {name: kwargs.pop(name) for name in list(kwargs) if name in kernel.arg_names}
        records.append(Recorded(kernel, arguments, kwargs))

    homes = ("attviz.kernels.triton.logsumexp", "attviz.kernels.triton.qk")
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(triton.runtime.jit.JITFunction, "run", record))
        for home in homes:
            stack.enter_context(mock.patch(f"{home}.architecture", return_value=arch))
        yield records


def specialise(recorded: Recorded) -> ASTSource:
    """Signature, constants and alignments as the just-in-time compiler would derive them."""
    signature, constants, attributes = {}, {}, {}
    for place, param in enumerate(recorded.kernel.params):
        value = recorded.arguments[param.name]
        if param.is_constexpr or value is None or (type(value) is int and value == 1 and not param.do_not_specialize):
            signature[param.name], constants[(place,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[param.name], attributes[(place,)] = POINTERS[value.dtype], ALIGNED
        elif isinstance(value, float):
            signature[param.name] = "fp32"
        else:
            signature[param.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not param.do_not_specialize:
                attributes[(place,)] = ALIGNED
    return ASTSource(recorded.kernel, signature, constants, attributes)


def compile_launch(launch: Callable[[], object], arch: str) -> dict[str, Report]:
    """Compile every kernel that ``launch`` starts, for ``arch``; reports by kernel name."""
    with recording(arch) as records:
        launch()
    reports = {}
    for recorded in records:
        compiled = triton.compile(specialise(recorded), target=TARGETS[arch], options=recorded.options)
        name = recorded.kernel.__name__
        reports[name] = _amd_report(compiled) if arch.startswith("gfx") else _nvidia_report(compiled)
    return reports


def _nvidia_report(compiled: Any) -> Report:
    """Registers and stack come from the binary itself: whatever the assembler could not keep in registers lies on the stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", binary.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack, local = (int(re.findall(rf"{field}:(\d+)", usage)[-1]) for field in ("REG", "STACK", "LOCAL"))
    ptx = compiled.asm["ptx"]
    return Report(
        registers=registers,
        spilled_bytes=stack + local,
        shared_bytes=compiled.metadata.shared,
        matrix=len(re.findall(r"\b(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)", ptx)),
        vector_loads=len(re.findall(r"ld\.global\S*\.v[248]|cp\.async\.cg", ptx)),
        scalar_loads=len(re.findall(r"ld\.global(?!\S*\.v[248])", ptx)),
    )


def _amd_report(compiled: Any) -> Report:
    assembly = compiled.asm["amdgcn"]

    def number(field: str) -> int:
        found = re.findall(rf"\.{field}:\s*(\d+)", assembly)
        return max(map(int, found), default=0)

    return Report(
        registers=number("vgpr_count"),
        spilled_bytes=number("private_segment_fixed_size"),
        shared_bytes=compiled.metadata.shared,
        matrix=len(re.findall(r"\bv_mfma_", assembly)),
        vector_loads=len(re.findall(r"\b(?:global|buffer)_load_dwordx[24]", assembly)),
        scalar_loads=len(re.findall(r"\b(?:global|buffer)_load_(?:dword|ushort|short_d16\w*|ubyte)\b", assembly)),
    )
