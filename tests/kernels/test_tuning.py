"""The committed table has a row for whatever a launch asks, and the choice between Triton and torch is as documented."""

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from attviz.kernels.twins import has_triton, triton_serves


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942", "cpu"])
@pytest.mark.parametrize("kernel", ["logsumexp", "qk", "qk_bias"])
def test_every_launch_finds_its_row(kernel, arch):
    from attviz.kernels.triton.launch import tuned

    for single in (False, True):
        for width in (16, 32, 64, 128, 256):
            if single and width > 128 and kernel != "logsumexp":
                continue  # torch serves these
            row = tuned(kernel, arch, width, single)
            assert {"BLOCK_Q", "num_warps"} <= set(row) <= {"BLOCK_Q", "BLOCK_K", "num_warps", "num_stages"}


def test_an_architecture_without_a_row_gets_the_default():
    from attviz.kernels.triton.launch import tuned

    assert tuned("qk", "sm_70", 64) == tuned("qk", "default", 64)
    assert tuned("qk", "gfx1201", 64) == tuned("qk", "gfx1100", 64)  # built like it
    assert tuned("qk", "gfx942", 64) != tuned("qk", "default", 64)


def test_the_tuning_script_writes_what_it_read():
    from attviz.kernels.triton.launch import TABLE
    from benchmarks.kernels.tune import layout

    assert layout(json.loads(TABLE.read_text())) == TABLE.read_text()


def test_the_page_names_the_rows_that_torch_serves():
    from benchmarks.kernels.report import PAGE, served_by_torch

    served = served_by_torch()
    assert "| received | sm_120 | float32/128 |" in served
    assert served in PAGE.read_text(), "run python -m benchmarks.kernels.report"


def test_torch_takes_what_the_twins_would_round_or_spill():
    assert has_triton()
    half, single, double = (torch.zeros(1, dtype=dtype) for dtype in (torch.float16, torch.float32, torch.float64))
    assert triton_serves(half, 256, matrix=True)
    assert not triton_serves(half, 264)
    assert triton_serves(single, 256)
    assert triton_serves(single, 128, matrix=True)
    assert not triton_serves(single, 136, matrix=True)
    assert not triton_serves(double, 64)


@pytest.mark.parametrize("kernel", ["logsumexp", "qk", "qk_bias", "received", "mass"])
def test_the_blocks_that_are_tried_are_those_that_are_launched(kernel):
    from benchmarks.kernels.cases import variants
    from benchmarks.kernels.compile import recording
    from benchmarks.kernels.tune import using

    blocks = {"BLOCK_Q": 16, "num_warps": 1} | ({} if kernel == "logsumexp" else {"BLOCK_K": 16, "num_stages": 1})
    with recording("sm_90") as records, using(kernel, blocks):
        next(variants(kernel, torch.bfloat16, 16)).launch()
    assert records[-1].options["num_warps"] == 1  # the table has 4 and more


def test_candidates_that_spill_or_do_not_compile_are_left_out():
    from benchmarks.kernels.tune import fault, worth_a_try

    good, wide = {"BLOCK_Q": 32, "num_warps": 4}, {"BLOCK_Q": 32, "num_warps": 1}
    assert fault("sm_90", "logsumexp", torch.bfloat16, 64, good) == ""
    assert "spilled" in fault("sm_90", "logsumexp", torch.float32, 256, wide)
    assert "Error" in fault("sm_90", "logsumexp", torch.bfloat16, 64, {"BLOCK_Q": 33, "num_warps": 4})  # no power of two
    with ThreadPoolExecutor(1) as pool:
        assert worth_a_try(pool, "sm_90", "logsumexp", torch.float32, 256, [wide]) == []
        assert worth_a_try(pool, "sm_70", "logsumexp", torch.float32, 256, [wide]) == [wide]  # not among the compiled ones: try all


@pytest.mark.parametrize("kernel", ["logsumexp", "qk", "qk_bias", "received", "mass"])
def test_the_measuring_is_walked_through_without_a_gpu(kernel, monkeypatch):
    from benchmarks.kernels import rehearsal, timing, tune

    monkeypatch.setattr(tune, "LENGTH", 32)
    monkeypatch.setattr(timing, "gpu", rehearsal.Device())
    monkeypatch.setattr(timing, "PATIENCE", 0.0)
    tried = list(tune.candidates(kernel))[:2]
    tune.known.cache_clear()
    assert tune.best(kernel, 16, torch.float32, tried, lambda function, *args: function(*args)) == (tried[0], 1.0)


def _breaks(how):
    if how == "dies":
        os._exit(1)
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_tile_that_breaks_the_device_costs_only_itself():
    from benchmarks.kernels import tune

    with contextlib.closing(tune.OneProcess()) as worker:
        assert "illegal memory access" in worker(_breaks, "raises")
        assert worker(max, 1.0, 2.0) == 2.0
        assert worker(_breaks, "dies").startswith("breaks the device")
        assert worker(max, 1.0, 2.0) == 2.0


def test_what_was_measured_is_written_row_by_row(monkeypatch, tmp_path):
    from attviz.kernels.triton import launch
    from benchmarks.kernels import tune

    table = tmp_path / "tuning.json"
    table.write_text(launch.TABLE.read_text())
    monkeypatch.setattr(launch, "TABLE", table)
    monkeypatch.setattr(launch, "architecture", lambda device: "sm_70")  # none of those that are compiled first
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(tune, "best", lambda kernel, head_dim, dtype, tried, worker: None if kernel == "mass" else (tried[0], 1.0))
    before = json.loads(table.read_text())
    assert tune.main(["--dry-run"]) == 0
    assert json.loads(table.read_text()) == before
    assert tune.main([]) == 0
    written = json.loads(table.read_text())
    assert written["measured"] == ["sm_70"]
    assert written["kernels"]["qk"]["sm_70/half/64"] == next(tune.candidates("qk"))
    assert not any(row.startswith("sm_70") for row in written["kernels"]["mass"])
    assert {name: row for name, row in written["kernels"]["qk"].items() if "sm_70" not in name} == before["kernels"]["qk"]


def test_without_a_gpu_the_script_says_so_and_writes_nothing(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    from benchmarks.kernels.tune import main

    assert main([]) == 2
    assert "No GPU here" in capsys.readouterr().err


@pytest.mark.parametrize(("arch", "single", "width"), [("sm_75", False, 64), ("gfx1100", True, 64), ("gfx1100", False, 256)])
def test_where_no_tile_was_clean_torch_serves_without_a_warning(arch, single, width, recwarn):
    from attviz.kernels.triton.launch import tuned
    from attviz.kernels.twins import NoTile, twin

    with pytest.raises(NoTile, match=f"qk {arch}"):
        tuned("qk", arch, width, single)
    kind = (torch.float16, width)
    assert twin("diagonal_from_qk", kind, True, lambda: tuned("qk", arch, width, single), lambda: "torch") == "torch"
    assert not recwarn
