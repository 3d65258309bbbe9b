"""The kernels on paper: bytes, operations, launches and the compiler's own numbers, beside the plain forward. Needs no GPU.

python -m benchmarks.kernels.roofline             # prints, and writes docs/roofline.md and benchmarks/results/roofline.csv
python -m benchmarks.kernels.roofline --dry-run   # prints

A time here is a floor: what must be moved or multiplied, over the peak of the data sheet. No kernel reaches it, and no forward either.
Where a GPU is at hand, the last column is what it took.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from attviz.kernels.triton import logsumexp, mass, qk, received, tokens, weights
from benchmarks.environment import environment
from benchmarks.kernels.compile import Report, launches_of
from benchmarks.kernels.devices import DEVICES, Device
from benchmarks.kernels.report import versions
from benchmarks.kernels.timing import time_calls

ROOT = Path(__file__).parents[2]
COLUMNS = (
    *("device", "shape", "kernel", "launches", "programs", "mbytes", "gflop", "registers", "shared_kib", "occupancy", "vector_loads"),
    *("scalar_loads", "floor_us", "forward_floor_us", "share", "measured_us"),
)
HEADER = """# The kernels on paper

Written by `python -m benchmarks.kernels.roofline` with {versions} on {device}.
**Nothing in the columns "floor", "forward" and "share" was measured.**
`floor` is the larger of bytes over the memory's bandwidth and operations over the rate of the units, both peaks of the data sheet: no
kernel reaches it. `forward` is the same floor of the plain layer (its projections, its feed-forward part, its attention; its weights read
once), and `share` the quotient of the two. Registers, shared memory and loads (vector : scalar, in the program text) are those of the
compiled kernel; occupancy is the share of a multiprocessor's warps that they leave room for.

"""


@dataclass(frozen=True)
class Layer:
    """One layer of a model at one size, in 16 bits."""

    name: str
    batch: int
    q_len: int
    kv_len: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    feed_forward: int  # weights of its feed-forward part
    is_causal: bool

    @property
    def rows(self) -> int:
        return self.batch * self.num_heads * self.q_len

    @property
    def pairs(self) -> float:
        """Query-key products, of all heads."""
        return self.rows * (self.kv_len if not self.is_causal or self.q_len == 1 else (self.kv_len + 1) / 2)

    def forward_floor(self, device: Device) -> float:
        """Seconds of the plain layer at the peaks of a device."""
        width = self.num_heads * self.head_dim
        parameters = 2 * self.hidden * (width + self.num_kv_heads * self.head_dim) + self.feed_forward
        operations = 2 * self.batch * self.q_len * parameters + 4 * self.pairs * self.head_dim
        cache = 2 * self.batch * self.kv_len * self.num_kv_heads * self.head_dim
        return max(operations / device.matrix_rate, 2 * (parameters + cache) / device.bandwidth)

    def tensors(self, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and log-sum-exp, laid out as a projection and a kernel leave them."""
        query = torch.empty(self.batch, self.q_len, self.num_heads, self.head_dim, dtype=torch.bfloat16, device=device)
        key = torch.empty(self.batch, self.kv_len, self.num_kv_heads, self.head_dim, dtype=torch.bfloat16, device=device)
        lse = torch.empty(self.batch, self.num_heads, self.q_len, device=device)
        return query.normal_().transpose(1, 2), key.normal_().transpose(1, 2), lse.fill_(9.0)


SEGMENTS = 16  # features of the mass
LLAMA = {"num_heads": 32, "num_kv_heads": 8, "head_dim": 128, "hidden": 4096, "feed_forward": 3 * 4096 * 14336, "is_causal": True}
LAYERS = (
    Layer("Llama-3-8B 1 x 4096", 1, 4096, 4096, **LLAMA),  # type: ignore[arg-type]
    Layer("Llama-3-8B 1 x 131072", 1, 131072, 131072, **LLAMA),  # type: ignore[arg-type]
    Layer("BERT-base 8 x 128", 8, 128, 128, 12, 12, 64, 768, 2 * 768 * 3072, False),
    Layer("ViT-L 64 x 197", 64, 197, 197, 16, 16, 64, 1024, 2 * 1024 * 4096, False),
    Layer("Llama-3-8B decode, 4096 cached", 1, 1, 4096, **LLAMA),  # type: ignore[arg-type]
)


@dataclass(frozen=True)
class Kernel:
    """A reading of one layer: what it launches, and what that must move and compute."""

    name: str
    launch: Callable[[str], Callable[[], object]]  # from the device of the tensors
    bytes: float
    operations: float
    matrix: bool = False


def kernels(layer: Layer) -> Iterator[Kernel]:
    """All of them at one layer."""
    width = 2 * layer.head_dim
    queries, own_keys = layer.rows * width, layer.batch * layer.q_len * layer.num_kv_heads * width
    offset = layer.kv_len - layer.q_len

    def from_logsumexp(shift: int, extras: bool) -> Callable[[str], Callable[[], object]]:
        def make(device: str) -> Callable[[], object]:
            query, key, lse = layer.tensors(device)
            return lambda: logsumexp.launch(query, key, lse, 0.1, None, None, offset, 0.0, *(None,) * 4, shift, -1, -1, extras)

        return make

    def from_qk(device: str) -> Callable[[], object]:
        query, key, _ = layer.tensors(device)
        rules = (0.1, None, True, -1, 0 if layer.is_causal else -1, 0.0, *(None,) * 6, layer.q_len, False)
        return lambda: qk.launch(query, key, *rules)

    passed = (0.1, offset, True, -1, 0 if layer.is_causal else -1, 0.0, *(None,) * 5, layer.q_len)

    def of_keys(device: str) -> Callable[[], object]:
        query, key, lse = layer.tensors(device)
        return lambda: received.launch(query, key, lse, None, *passed)

    def of_features(device: str) -> Callable[[], object]:
        query, key, lse = layer.tensors(device)
        features = torch.zeros(1, layer.kv_len, SEGMENTS, device=device)
        return lambda: mass.launch(query, key, lse, features, -1, *passed)

    def from_weights(device: str) -> Callable[[], object]:
        matrix = torch.empty(layer.batch, layer.num_heads, layer.q_len, layer.kv_len, dtype=torch.bfloat16, device=device)
        return lambda: weights.launch(matrix, offset, False)

    def merged(device: str) -> Callable[[], object]:
        vocab, heads, n = 32000, layer.num_heads, layer.batch * layer.q_len
        state = [torch.zeros(vocab, dtype=torch.float64, device=device)]
        state += [torch.zeros(vocab, heads, dtype=torch.float64, device=device) for _ in range(2)]
        state += [torch.zeros(vocab, heads, device=device) for _ in range(2)]
        diagonal = torch.empty(layer.batch, heads, layer.q_len, device=device)
        ids = torch.arange(n, device=device)
        plan = torch.stack((ids % vocab, ids, ids, ids + 1, ids * 0 - 1))
        return lambda: tokens.launch(*state, diagonal, plan)

    yield Kernel("diagonal_from_logsumexp", from_logsumexp(0, False), queries + own_keys + 8 * layer.rows, layer.rows * width)
    yield Kernel("previous token", from_logsumexp(-1, False), queries + own_keys + 8 * layer.rows, layer.rows * width)
    aggregates = 20 * layer.batch * layer.q_len
    yield Kernel(
        "summary_from_logsumexp", from_logsumexp(0, True), queries + own_keys + 12 * layer.rows + aggregates, 2 * layer.rows * width
    )
    keys = layer.batch * layer.kv_len * layer.num_kv_heads * width
    yield Kernel("diagonal_from_qk", from_qk, queries + keys + 4 * layer.rows, 2 * layer.pairs * layer.head_dim, True)
    summed, products = 8 * layer.batch * layer.num_heads * layer.kv_len, 2 * layer.pairs * layer.head_dim
    yield Kernel("received_from_logsumexp", of_keys, queries + keys + 4 * layer.rows + summed, products, True)
    yield Kernel(
        f"mass_from_logsumexp, {SEGMENTS} segments", of_features, queries + keys + 4 * layer.rows * (1 + SEGMENTS),
        products + 2 * layer.pairs * SEGMENTS, True,
    )  # fmt: skip
    if layer.kv_len <= 4096:
        yield Kernel("diagonal_from_weights", from_weights, 36 * layer.rows, 0.0)  # a strided element costs a sector of 32 bytes
    state = 2 * min(layer.batch * layer.q_len, 32000) * (24 * layer.num_heads + 8)
    yield Kernel("merge_by_token", merged, 4 * layer.rows + 40 * layer.batch * layer.q_len + state, 0.0)


def row(device: Device, layer: Layer, kernel: Kernel, on_device: bool) -> dict[str, object]:
    """One line of the table."""
    started = launches_of(kernel.launch("meta"), device.arch)
    report: Report = max((launched.report for launched in started), key=lambda report: report.registers)
    rate = device.matrix_rate if kernel.matrix else device.float_rate
    floor, forward = max(kernel.bytes / device.bandwidth, kernel.operations / rate), layer.forward_floor(device)
    return {
        "device": device.name,
        "shape": layer.name,
        "kernel": kernel.name,
        "launches": len(started),
        "programs": sum(launched.programs for launched in started),
        "mbytes": kernel.bytes / 1e6,
        "gflop": kernel.operations / 1e9,
        "registers": report.registers,
        "shared_kib": report.shared_bytes / 1024,
        "occupancy": min(device.occupancy(launched.report, launched.num_warps) for launched in started),
        "vector_loads": report.vector_loads,
        "scalar_loads": report.scalar_loads,
        "floor_us": floor * 1e6,
        "forward_floor_us": forward * 1e6,
        "share": floor / forward,
        "measured_us": time_calls([kernel.launch("cuda")]).p50_ms * 1e3 if on_device else "",
    }


def here(device: Device) -> bool:
    """Whether this machine has such a device."""
    return torch.cuda.is_available() and device.name.split()[0] in torch.cuda.get_device_name()


def rows(devices: tuple[Device, ...] = DEVICES, layers: tuple[Layer, ...] = LAYERS) -> Iterator[dict[str, object]]:
    """The whole table."""
    for device in devices:
        for layer in layers:
            for kernel in kernels(layer):
                yield row(device, layer, kernel, here(device))


def markdown(table: list[dict[str, object]]) -> str:
    """One table a device."""
    lines = []
    for device in dict.fromkeys(str(line["device"]) for line in table):
        lines += [f"## {device}", "", "| shape | kernel | launches x programs | MB | GFLOP | registers | shared KiB | occupancy | loads |"]
        lines[-1] += " floor us | forward us | share | measured us |"
        lines.append("|" + "---|" * 13)
        for line in table:
            if line["device"] == device:
                measured = line["measured_us"]
                lines.append(
                    f"| {line['shape']} | `{line['kernel']}` | {line['launches']} x {line['programs']} | {line['mbytes']:.2f} | "
                    f"{line['gflop']:.3g} | {line['registers']} | {line['shared_kib']:.0f} | {line['occupancy']:.0%} | "
                    f"{line['vector_loads']}:{line['scalar_loads']} | {line['floor_us']:.2f} | {line['forward_floor_us']:.0f} | "
                    f"{line['share']:.2%} | {measured if measured == '' else f'{measured:.2f}'} |"
                )
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--out", type=Path, default=ROOT, help="where docs/ and benchmarks/results/ are")
    arguments = parser.parse_args(argv)
    table = list(rows())
    text = markdown(table)
    print(text)
    if not arguments.dry_run:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a machine without a GPU"
        (arguments.out / "docs" / "roofline.md").write_text(HEADER.format(device=device, versions=versions()) + text)
        about = {"machine" if name == "device" else name: value for name, value in environment().items()}
        with (arguments.out / "benchmarks" / "results" / "roofline.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *about])
            writer.writeheader()
            writer.writerows({**line, **about} for line in table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
