"""The GPU benchmark: one command, unattended, done within its minutes. Without a GPU it says so and runs the CPU part.

python -m benchmarks.gpu                       # kernels, readings and whole models; writes benchmarks/results/gpu-<device>-*
python -m benchmarks.gpu --minutes 3 --out DIR
python -m benchmarks.gpu --rehearse            # without a GPU: every row's code on small sizes, a clock that stands still, nothing written
python -m benchmarks.gpu                       # again: goes on where the last run was stopped; --fresh begins anew

Every answer is checked before its time is taken; what is wrong is named and not timed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.kernels import kernel_rows, model_rows, peer_rows, reading_rows, timing
from benchmarks.kernels.journal import Journal
from benchmarks.kernels.timing import copy_bandwidth, matrix_rate

Row = dict[str, object]
FAILED = "failed: "
RESULTS = Path(__file__).parent / "results"
KERNEL_COLUMNS = ("kernel", "shape", "p50_ms", "p20_ms", "p80_ms", "floor_ms", "of_floor", "over_flash", "note")
READING_COLUMNS = ("reading", "model", "capture_ms", "with_reading_ms", "ratio", "note")
MODEL_COLUMNS = (
    *("model", "backend", "layers", "plain_ms", "capture_ms", "ratio", "open_ratio", "bit_identical"),
    *("plain_peak_mb", "extra_peak_mb", "diagonal_mb", "note"),
)


def measure_kernels(deadline: float, journal: Journal) -> list[Row]:
    """All kernels at all shapes, until the deadline."""
    shapes = kernel_rows.GPU_SHAPES if timing.gpu.is_available() else kernel_rows.CPU_SHAPES
    bandwidth = copy_bandwidth()
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s", flush=True)
    rows: list[Row] = []
    for shape in shapes:
        if time.monotonic() > deadline:
            rows.append({"kernel": "-", "shape": shape.name, "note": "not measured: out of time"})
            continue
        rate = matrix_rate(shape.dtype)
        print(f"{shape.name}: {rate / 1e12:.2f} TFLOP/s of {shape.dtype} products", flush=True)
        try:
            for row in journal.of("kernels", shape.name, kernel_rows.measure(shape, bandwidth, rate)):
                rows.append(row)
                print(_line(row), flush=True)
        except Exception:  # one shape must not cost the others their numbers
            rows.append({"kernel": "-", "shape": shape.name, "note": FAILED + " ".join(traceback.format_exc().split())[-300:]})
            traceback.print_exc()
        model_rows.clean()
    return rows


def measure_readings(deadline: float, minutes: float, journal: Journal) -> list[Row]:
    """All readings in the models, until the deadline; those named after one reading have it alone."""
    rows: list[Row] = []
    for case in reading_rows.GPU_CASES if timing.gpu.is_available() else reading_rows.CPU_CASES:
        names = tuple(name for name in reading_rows.READINGS if case.name.startswith(name)) or tuple(reading_rows.READINGS)
        if time.monotonic() > deadline:
            rows.append({"reading": "-", "model": case.name, "note": "not measured: out of time"})
            continue
        try:
            made = reading_rows.measure(case, minutes * 60 / 200, deadline, names)
            for row in journal.of("readings", case.name, made):
                rows.append(row)
                print(_line(row), flush=True)
        except Exception as error:  # one model must not cost the others their numbers
            rows.append(
                {"reading": "-", "model": case.name, "note": f"{FAILED}{type(error).__name__}: " + " ".join(str(error).split())[:150]}
            )
            traceback.print_exc()
        model_rows.clean()
    return rows


def measure_models(deadline: float, minutes: float, journal: Journal) -> list[Row]:
    """A decode step, then all models with all backends, until the deadline; nothing without a GPU."""
    if not timing.gpu.is_available():
        return []
    rows = _model_rows(model_rows.DECODE.name, journal, model_rows.measure_decode(minutes * 60 / 200))
    for case in model_rows.CASES:
        if time.monotonic() > deadline - 20:
            rows.append({"model": case.name, "note": "not measured: out of time"})
        else:
            rows += _model_rows(case.name, journal, model_rows.measure(case, minutes * 60 / 150, deadline))
    return rows


def _model_rows(name: str, journal: Journal, made: Iterator[Row]) -> list[Row]:
    rows: list[Row] = []
    try:
        for row in journal.of("models", name, made):
            rows.append(row)
            print(_line(row), flush=True)
    except Exception as error:  # one model must not cost the others their numbers
        rows.append({"model": name, "note": f"{FAILED}{type(error).__name__}: " + " ".join(str(error).split())[:150]})
        traceback.print_exc()
    model_rows.clean()
    return rows


def measure_peers(deadline: float, minutes: float, journal: Journal) -> list[Row]:
    """All peers that are installed, until the deadline; nothing without a GPU."""
    rows: list[Row] = []
    try:
        for row in journal.of("peers", "all", peer_rows.measure(minutes * 60 / 300, deadline)) if timing.gpu.is_available() else ():
            rows.append(row)
            print(_line(row), flush=True)
    except Exception as error:  # what a peer breaks must not cost ours their numbers
        rows.append({"peer": "-", "note": f"not measured: {type(error).__name__}: " + " ".join(str(error).split())[:150]})
        traceback.print_exc()
    model_rows.clean()
    return rows


def _line(row: Row) -> str:
    return "  ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items() if value != "")


def write_csv(path: Path, rows: list[Row], columns: tuple[str, ...], about: dict[str, str]) -> None:
    """Rows with the environment in every one."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *about])
        writer.writeheader()
        writer.writerows({**row, **about} for row in rows)


def markdown(rows: list[Row], columns: tuple[str, ...]) -> str:
    """The rows as a Markdown table."""

    def text(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join(lines + [f"| {' | '.join(text(row.get(column, '')) for column in columns)} |" for row in rows])


def draw(path: Path, rows: list[Row]) -> None:
    """Time of each kernel beside its floor, one panel a shape, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if "p50_ms" in row]
    if not rows:
        return
    shapes = {shape: [row for row in rows if row["shape"] == shape] for shape in dict.fromkeys(str(row["shape"]) for row in rows)}
    heights = [len(here) for here in shapes.values()]
    figure, axes = plt.subplots(
        len(shapes), 1, figsize=(7, 0.24 * sum(heights) + 1.1 * len(shapes)), layout="constrained", squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for ax, (shape, here) in zip(axes[:, 0], shapes.items(), strict=True):
        names = [str(row["kernel"]) for row in here]
        ax.barh(names, [float(str(row["p50_ms"])) for row in here], color="#4477aa", label="measured, median")
        ax.scatter([float(str(row["floor_ms"])) for row in here], names, marker="|", s=110, color="#cc3311", zorder=3, label="floor")
        ax.set(xscale="log", xlabel="milliseconds", title=shape)
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", fontsize="small", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def driver() -> str:
    """Version of the GPU driver, or a dash."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "-"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="stop starting measurements after so many minutes")
    parser.add_argument("--fresh", action="store_true", help="measure again what an earlier run has measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rehearse", action="store_true", help="walk through everything on the CPU, on small sizes; no measurement")
    arguments = parser.parse_args(argv)
    if arguments.rehearse:
        from benchmarks.kernels.rehearsal import rehearsing

        with tempfile.TemporaryDirectory() as folder, rehearsing():
            return run(Path(folder), arguments.minutes, fresh=True)
    if not torch.cuda.is_available():
        print("No GPU here: torch.cuda.is_available() is False. The torch implementations are measured on the CPU instead.", flush=True)
    return run(arguments.out, arguments.minutes, arguments.fresh)


def run(out: Path, minutes: float, fresh: bool) -> int:
    """Measure everything into a folder; the exit code."""
    about = environment() | {"driver": driver()}
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    stem = ("gpu-" if torch.cuda.is_available() else "gpu-none-") + re.sub(r"\W+", "-", about["device"]).strip("-").lower()
    page = [", ".join(f"{key} {value}" for key, value in about.items())]

    def write(part: str, rows: list[Row], columns: tuple[str, ...]) -> None:
        """At once: whoever stops the run keeps what was measured."""
        write_csv(out / f"{stem}-{part}.csv", rows, columns, about)
        page.append(markdown(rows, columns))
        (out / f"{stem}.md").write_text("\n\n".join(page) + "\n")

    journal = Journal(out / f"{stem}.jsonl", about, fresh)
    kernels = measure_kernels(start + minutes * 60 * 0.25, journal)
    write("kernels", kernels, KERNEL_COLUMNS)
    draw(out / f"{stem}.png", kernels)
    readings = measure_readings(start + minutes * 60 * 0.4, minutes, journal)
    write("readings", readings, READING_COLUMNS)
    peers = measure_peers(start + minutes * 60 * 0.5, minutes, journal)
    if peers:
        write("peers", peers, peer_rows.COLUMNS)
    models = measure_models(start + minutes * 60, minutes, journal)
    if models:
        write("models", models, MODEL_COLUMNS)
    print(f"{time.monotonic() - start:.0f} s; written: {out / stem}*", flush=True)
    failed = [row for row in kernels + readings + peers + models if str(row.get("note", "")).startswith((FAILED, "wrong"))]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
