"""The table of the kernels on paper: numbers that can be reckoned by hand."""

import csv
from dataclasses import replace

import pytest

from benchmarks.kernels import roofline
from benchmarks.kernels.compile import Report
from benchmarks.kernels.devices import DEVICES
from benchmarks.kernels.timing import Timing

H100 = DEVICES[0]
LLAMA = roofline.LAYERS[0]


def test_bytes_and_floor_of_the_diagonal_are_those_of_the_design():
    (diagonal, *_) = roofline.kernels(LLAMA)
    assert diagonal.bytes == 4096 * (32 + 8) * 128 * 2 + 8 * 32 * 4096  # query and key once, log-sum-exp read, diagonal written
    assert diagonal.bytes / 3.0e12 == pytest.approx(14e-6, rel=0.03)  # design.md: 14 us at the 3.0 TB/s once measured


def test_the_forward_of_a_layer_counts_its_weights_and_half_its_attention():
    parameters = 2 * 4096 * (4096 + 1024) + 3 * 4096 * 14336
    operations = 2 * 4096 * parameters + 4 * 32 * 4096 * 4097 / 2 * 128
    assert LLAMA.forward_floor(H100) == pytest.approx(operations / 989e12)
    decode = roofline.LAYERS[-1]
    assert decode.forward_floor(H100) == pytest.approx(2 * (parameters + 2 * 4096 * 8 * 128) / 3.35e12)  # bound by bytes


@pytest.mark.parametrize(
    ("registers", "shared", "expected"), [(32, 0, 1.0), (64, 0, 0.5), (128, 0, 0.25), (32, 116736, 0.125), (255, 0, 0.125)]
)
def test_occupancy_is_what_registers_and_shared_memory_leave(registers, shared, expected):
    assert H100.occupancy(Report(registers, 0, shared, 0, 0, 0), 4) == expected


def test_one_line_comes_from_the_compiled_kernel(tmp_path, monkeypatch):
    layers = (roofline.LAYERS[2],)
    only = roofline.rows
    monkeypatch.setattr(roofline, "rows", lambda: only(DEVICES[:1], layers))
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert roofline.main(["--out", str(tmp_path)]) == 0
    lines = list(csv.DictReader((tmp_path / "benchmarks" / "results" / "roofline.csv").read_text().splitlines()))
    found = {line["kernel"]: line for line in lines}
    assert found["diagonal_from_logsumexp"]["launches"] == "1"
    assert found["diagonal_from_logsumexp"]["programs"] == str(8 * 12 * 2)  # batch, heads, blocks of 64 queries
    assert found["merge_by_token"]["launches"] == "2"
    assert {line["device"] for line in lines} == {"H100 SXM"}  # not the machine that reckoned
    assert all(line["machine"] for line in lines)
    assert {line["measured_us"] for line in lines} == {""}  # no GPU here, and no number is made up
    written, committed = (root / "docs" / "roofline.md" for root in (tmp_path, roofline.ROOT))
    assert "## H100 SXM" in written.read_text()
    page = committed.read_text()
    if roofline.versions() in page and "a machine without a GPU" in page:  # by this very compiler, and nothing of it measured
        stale = [line for line in written.read_text().splitlines() if "`" in line and line.startswith("| ") and line not in page]
        assert not stale, "run python -m benchmarks.kernels.roofline"


def test_on_a_device_the_last_column_is_what_it_took(monkeypatch):
    """Walked through without one: the same launch on tensors without storage, by a clock that stands still."""
    (kernel, *_) = roofline.kernels(roofline.LAYERS[2])
    asked = []
    walked = replace(kernel, launch=lambda device: asked.append(device) or kernel.launch("meta"))
    monkeypatch.setattr(roofline, "time_calls", lambda runs: Timing(0.25, 0.2, 0.3) if callable(runs[0]) else None)
    assert roofline.row(H100, roofline.LAYERS[2], walked, on_device=True)["measured_us"] == 250.0
    assert asked == ["meta", "cuda"]
