"""What the data sheets say of four devices, and how many warps of a kernel fit them. Peaks, not measurements."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.kernels.compile import Report


@dataclass(frozen=True)
class Device:
    """Peaks of one device, from its vendor's data sheet (dense, not sparse), and what its multiprocessors hold.

    Attributes:
        arch: As the tuning table spells it.
        bandwidth: Of its memory, bytes a second.
        matrix_rate: Of bfloat16 products, operations a second.
        float_rate: Of float32 outside the matrix units, operations a second.
        units: Multiprocessors (compute units on AMD).
        warp: Threads of a warp (wavefront).
        registers: Of 32 bits, that a multiprocessor holds for all its threads.
        granule: Registers of a warp are handed out in multiples of so many.
        shared: Bytes of shared memory of a multiprocessor.
        warps: That a multiprocessor holds at most.
    """

    name: str
    arch: str
    bandwidth: float
    matrix_rate: float
    float_rate: float
    units: int
    warp: int = 32
    registers: int = 65536
    granule: int = 256
    shared: int = 233472
    warps: int = 64

    def occupancy(self, report: Report, num_warps: int) -> float:
        """Share of the warps a multiprocessor could hold that fit with these registers and this shared memory."""
        each = -(-report.registers * self.warp // self.granule) * self.granule
        by_registers = self.registers // each // num_warps * num_warps
        by_shared = self.warps if not report.shared_bytes else self.shared // report.shared_bytes * num_warps
        return min(self.warps, by_registers, by_shared) / self.warps


DEVICES = (
    Device("H100 SXM", "sm_90", 3.35e12, 989e12, 67e12, 132),
    Device("H200 SXM", "sm_90", 4.8e12, 989e12, 67e12, 132),
    Device("A100 SXM 80 GB", "sm_80", 2.039e12, 312e12, 19.5e12, 108, shared=167936),
    Device("MI300X", "gfx942", 5.3e12, 1307e12, 163.4e12, 304, warp=64, registers=131072, granule=512, shared=65536, warps=32),
)
