"""The GPU benchmark rehearsed without a GPU: it must run unattended, and one fault must not cost the other numbers."""

import csv
import types

import pytest
import torch
from torch.nn.attention import SDPBackend

from benchmarks import gpu
from benchmarks.kernels import kernel_rows, model_rows, reading_rows, timing
from benchmarks.kernels.journal import Journal
from benchmarks.kernels.kernel_rows import Shape
from benchmarks.kernels.model_rows import ModelCase

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the benchmark itself")
TINY = Shape("tiny", 1, 2, 1, 64, 16, torch.float32, True)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(reading_rows, "CPU_CASES", ())
    monkeypatch.setattr(timing, "_on_cpu", lambda runs, seconds, at_least: [1.0 for run in runs[:1] if run() is not run])


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_one_command_writes_numbers_table_and_figure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernel_rows, "CPU_SHAPES", (TINY,))
    assert gpu.main(["--out", str(tmp_path)]) == 0
    assert "No GPU here" in capsys.readouterr().out
    (table,) = tmp_path.glob("gpu-none-*-kernels.csv")
    rows = rows_of(table)
    assert {row["kernel"] for row in rows} >= {"diagonal_from_qk", "diagonal_from_logsumexp", "flash_forward", "summary_from_weights"}
    assert all(float(row["p50_ms"]) == 1.0 and row["torch"] == torch.__version__ for row in rows)
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".jsonl", ".md", ".png"}


def test_a_wrong_kernel_is_named_and_not_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_rows, "CPU_SHAPES", (TINY,))
    right = kernel_rows.kernels.diagonal_from_qk
    monkeypatch.setattr(kernel_rows.kernels, "diagonal_from_qk", lambda *args, **options: right(*args, **options) + 0.1)
    assert gpu.main(["--out", str(tmp_path)]) == 1
    rows = {row["kernel"]: row for row in rows_of(next(tmp_path.glob("*-kernels.csv")))}
    assert rows["diagonal_from_qk"]["p50_ms"] == ""
    assert rows["diagonal_from_qk"]["note"].startswith("wrong, so not timed")
    assert rows["diagonal_from_logsumexp"]["p50_ms"] == "1.0"


def test_a_shape_that_breaks_costs_only_itself(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_rows, "CPU_SHAPES", (Shape("odd", 1, 3, 2, 64, 16, torch.float32, True), TINY))
    assert gpu.main(["--out", str(tmp_path)]) == 1
    rows = rows_of(next(tmp_path.glob("*-kernels.csv")))
    assert rows[0]["note"].startswith("failed: ")
    assert "ShapeError" in rows[0]["note"]
    assert {row["shape"] for row in rows[1:]} == {"tiny"}


def test_a_model_is_measured_with_each_backend():
    case = ModelCase("bert", "bert", 1, 16, 1, torch.float32, dense=True)
    flash, *others, eager = model_rows.measure(case, seconds=0.0)
    assert flash["backend"] == "flash"
    assert flash["bit_identical"]
    assert float(flash["ratio"]) > 0
    assert flash["diagonal_mb"] == 12 * 16 * 4 / 2**20
    assert [row["backend"] for row in others] == ["efficient", "cudnn"]
    assert all(row["note"] or row["bit_identical"] for row in others)  # no such backend on the CPU
    assert eager["backend"] == "eager output_attentions"
    assert eager["note"] == ""


def test_a_training_step_is_compared_under_the_same_dropout(monkeypatch):
    monkeypatch.setattr(model_rows, "BACKENDS", {"math": SDPBackend.MATH})  # the fused kernel of the CPU drops nothing
    case = ModelCase("bert", "bert", 1, 16, 1, torch.float32, training=True)
    (row,) = model_rows.measure(case, seconds=0.0)
    assert row["note"] == ""
    assert row["bit_identical"]


def test_nothing_starts_after_the_deadline():
    case = ModelCase("bert", "bert", 1, 16, 1, torch.float32, dense=True)
    assert {row["note"] for row in model_rows.measure(case, 0.0, deadline=0.0)} == {"not measured: out of time"}


def test_short_kernels_are_timed_many_at_a_time_behind_a_busy_device(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("mark")

        def elapsed_time(self, stop):
            begin, end = [place for place, what in enumerate(log) if what == "mark"][-2:]
            return 0.1 * log[begin:end].count("run")

    device = types.SimpleNamespace(Event=Event, synchronize=lambda: None, _sleep=lambda cycles: log.append("sleep"))
    monkeypatch.setattr(timing, "gpu", device)
    samples = timing._on_gpu([lambda: log.append("run")], seconds=0.0, at_least=3)
    assert samples == pytest.approx([0.1] * 3)
    assert log == ["mark", "run", "mark", *(["sleep", "mark", *["run"] * 10, "mark"] * 3)]


def test_a_stopped_run_goes_on_where_it_stood(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_rows, "CPU_SHAPES", (TINY,))
    monkeypatch.setattr(gpu, "environment", lambda: {"device": "none", "torch": "1", "commit": "abc"})
    made = []

    def measure(shape, *_):
        made.append(shape)
        yield {"kernel": "a", "shape": shape.name, "note": ""}

    monkeypatch.setattr(kernel_rows, "measure", measure)
    for _ in range(2):
        assert gpu.main(["--out", str(tmp_path)]) == 0
        assert [row["kernel"] for row in rows_of(next(tmp_path.glob("*-kernels.csv")))] == ["a"]
    assert made == [TINY]
    gpu.main(["--out", str(tmp_path), "--fresh"])
    monkeypatch.setattr(gpu, "environment", lambda: {"device": "none", "torch": "1", "commit": "def"})
    gpu.main(["--out", str(tmp_path)])  # another commit: the old rows do not count
    assert made == [TINY] * 3


def test_a_journal_keeps_no_half_part_and_survives_a_torn_line(tmp_path):
    path, about = tmp_path / "j.jsonl", {"device": "none"}

    def stopped():
        yield {"note": ""}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Journal(path, about).of("kernels", "a", stopped()))
    list(Journal(path, about).of("kernels", "b", [{"note": "not measured: out of time"}]))
    list(Journal(path, about).of("kernels", "c", [{"note": "", "p50_ms": 1.0}]))
    path.write_text(path.read_text() + '["kernels", "d", [{"no')
    again = Journal(path, about)
    assert [next(again.of("kernels", name, [{"note": "new"}]))["note"] for name in "abcd"] == ["new", "new", "", "new"]


def test_every_reading_is_right_before_it_is_timed():
    case = ModelCase("bert", "bert", 1, 24, 2, torch.float32)
    rows = {row["reading"]: row for row in reading_rows.measure(case, 0.0, deadline=float("inf"))}
    assert set(rows) == set(reading_rows.READINGS)
    assert {row["note"] for row in rows.values()} == {""}
    assert all(float(row["ratio"]) > 0 for row in rows.values())


def test_a_wrong_reading_is_named_and_not_timed(monkeypatch):
    truth = reading_rows.READINGS["last row"]
    monkeypatch.setitem(reading_rows.READINGS, "last row", (truth[0], lambda weights: truth[1](weights) + 0.5))
    case = ModelCase("bert", "bert", 1, 24, 1, torch.float32)
    (row,) = reading_rows.measure(case, 0.0, float("inf"), ("last row",))
    assert row["note"].startswith("wrong, so not timed")
    assert "ratio" not in row


def test_every_row_of_a_run_on_a_gpu_is_walked_through(monkeypatch, capsys):
    """``--rehearse``: a typo in a row that only a GPU would reach fails here."""
    parts = {}
    monkeypatch.setattr(gpu, "write_csv", lambda path, rows, columns, about: parts.setdefault(path.stem.rsplit("-", 1)[1], (rows, columns)))
    assert gpu.main(["--rehearse"]) == 0
    assert set(parts) == {"kernels", "readings", "peers", "models"}
    for rows, columns in parts.values():
        assert rows
        assert all(set(row) <= set(columns) for row in rows)
    kernels = {(row["kernel"], row["shape"]) for row in parts["kernels"][0] if row["note" if "note" in row else "kernel"] is not None}
    assert {shape for _, shape in kernels} == {shape.name for shape in kernel_rows.GPU_SHAPES}
    assert {name for name, _ in kernels} >= {"received_from_logsumexp", "mass_from_logsumexp", "reach_from_logsumexp", "flash_forward"}
    assert not [row for row in parts["kernels"][0] + parts["readings"][0] if row.get("note")]
    assert {row["model"] for row in parts["readings"][0]} == {case.name for case in reading_rows.GPU_CASES}
    assert {row["model"] for row in parts["models"][0]} == {case.name for case in (model_rows.DECODE, *model_rows.CASES)}
    flash = [row for row in parts["models"][0] if row["backend"] == "flash" and "training" not in row["model"]]
    assert all(row["bit_identical"] and not row["note"] for row in flash)
    assert [row["note"] for row in parts["peers"][0]] == [""] * 3
