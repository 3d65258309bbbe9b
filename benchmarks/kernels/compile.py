"""Compile a kernel ahead of time, without a GPU, exactly as its launch function would on one.

The launch functions run on ``meta`` tensors, under a stand-in for the driver that names the architecture and has no device. Triton's own
just-in-time compiler specialises the launch (an int of 1 becomes a constant, a multiple of 16 is told as such, on AMD a tensor below
2 GiB too); where it would compile and launch, the launch is written down instead.
"""

from __future__ import annotations

import contextlib
import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attviz.kernels.triton import launch, tokens
from attviz.kernels.twins import NoTile

TARGETS = {
    **{f"sm_{number}": GPUTarget("cuda", number, 32) for number in (75, 80, 86, 89, 90, 100, 120)},
    **{name: GPUTarget("hip", name, 64) for name in ("gfx90a", "gfx942", "gfx950")},
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}


@dataclass(frozen=True)
class Recorded:
    """One launch as it would be compiled: the specialised source, and the compile options."""

    kernel: str
    source: ASTSource
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


class _NoDriver:
    """What the just-in-time compiler asks a driver before it compiles."""

    def __init__(self, arch: str) -> None:
        self._arch = arch

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self._arch]

    def get_current_device(self) -> str:
        return self._arch  # the compiler keeps what it knows by device: one for each architecture

    def get_current_stream(self, device: str) -> int:
        return 0


@contextlib.contextmanager
def recording(arch: str, then: Callable[[Recorded], Any] = lambda recorded: None) -> Iterator[list[Recorded]]:
    """Replace launches by records, and let the launch functions believe that they are on ``arch``.

    Args:
        arch: One of :data:`TARGETS`.
        then: Makes of a record what is launched in the place of the kernel: an object with ``run``; None launches nothing.
    """
    records: list[Recorded] = []

    def record(kernel: Any, _key: Any, signature: Any, _device: Any, constants: Any, options: Any, attributes: Any, warmup: bool) -> Any:
        if warmup:
            return None  # compiled only; the launch follows
        source = ASTSource(kernel, signature, constants, attributes)
        records.append(Recorded(kernel.__name__, source, dict(options.__dict__)))
        return then(records[-1])

    homes = [f"attviz.kernels.triton.{name}" for name in ("logsumexp", "pairs", "mass")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(triton.runtime.driver, "_active", _NoDriver(arch)))
        stack.enter_context(mock.patch.object(triton.runtime.jit.JITFunction, "_do_compile", record))
        for home in homes:
            stack.enter_context(mock.patch(f"{home}.architecture", return_value=arch))
        stack.enter_context(mock.patch.object(tokens, "_compiled", set()))
        stack.enter_context(mock.patch.object(launch, "_kept", {}))
        yield records


def compile_launch(run: Callable[[], object], arch: str) -> dict[str, Report]:
    """Compile every kernel that ``run`` starts, for ``arch``; reports by kernel name, none where torch serves."""
    return {launched.kernel: launched.report for launched in launches_of(run, arch)}


@dataclass
class Launched:
    """One launch, compiled and not run."""

    kernel: str
    report: Report
    num_warps: int
    programs: int = 0
    function: None = None  # what follows is asked by the just-in-time compiler
    packed_metadata: None = None

    def launch_metadata(self, *_: object) -> None:
        """Nothing to tell."""

    def run(self, *grid_and_arguments: Any) -> None:
        """Write down how many programs would run."""
        self.programs = math.prod(grid_and_arguments[:3])


def launches_of(run: Callable[[], object], arch: str) -> list[Launched]:
    """Every kernel that ``run`` starts, compiled for ``arch``, in order; none where torch serves."""
    started: list[Launched] = []

    def compiled(recorded: Recorded) -> Launched:
        binary = triton.compile(recorded.source, target=TARGETS[arch], options=recorded.options)
        report = _amd_report(binary) if arch.startswith("gfx") else _nvidia_report(binary)
        started.append(Launched(recorded.kernel, report, recorded.options["num_warps"]))
        return started[-1]

    with recording(arch, compiled), contextlib.suppress(NoTile):
        run()
    return started


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
        matrix=len(re.findall(r"\bv_(?:mfma|wmma)_", assembly)),
        vector_loads=len(re.findall(r"\b(?:global|buffer)_load_(?:dwordx[234]|b64|b96|b128)\b", assembly)),
        scalar_loads=len(re.findall(r"\b(?:global|buffer)_load_(?:dword|ushort|short_d16\w*|ubyte|b32|u16|u8|d16\w*)\b", assembly)),
    )
