"""Kernels compile ahead of time: no spills, room in shared memory, the instructions promised. No GPU needed.

Here the cases of the page and the odd ones are compiled for one architecture each, in turn, and a few of the others;
``python -m benchmarks.kernels.report --all`` compiles all of them for all.
"""

import itertools
from dataclasses import replace

import pytest
import triton

from attviz.kernels.twins import NoTile
from benchmarks.kernels.cases import Case, cases
from benchmarks.kernels.compile import TARGETS, compile_launch
from benchmarks.kernels.report import cell, committed_cells

CASES = {case.name: case for case in cases()}
COMMITTED = committed_cells()
COMPILER = tuple(int(part) for part in triton.__version__.split(".")[:2])
OTHERS = [name for name, case in CASES.items() if not case.shown and not case.odd]
SAMPLE = list(zip([name for name in CASES if name not in OTHERS] + OTHERS[::9], itertools.cycle(TARGETS), strict=False))
SAMPLE += zip(itertools.cycle([name for name in CASES if name.startswith("calls ")]), TARGETS, strict=False)  # every architecture: cheap
SAMPLE += [  # these spilled once
    ("logsumexp fp32 batch 1, heads 8 of 1, length 33, d64, aggregates", "sm_120"),
    ("qk fp32 batch 1, heads 8 of 1, length 33, d64", "sm_120"),
    ("qk fp32 batch 3, heads 1 of 1, length 7, d40", "sm_80"),
    ("qk fp32 d64 causal", "sm_80"),
    ("qk fp32 d64 causal", "sm_120"),
    ("received fp32 d64, window, softcap, alibi, bias, padding, queries", "sm_120"),
    ("mass bf16 d128, 64 features, window, softcap, alibi, bias, padding", "sm_120"),
    ("mass fp32 d16, 64 features, window, softcap, alibi, bias, padding", "sm_120"),
    ("mass bf16 d128, reach, window, softcap, alibi, bias, padding", "sm_120"),
    ("received bf16 d128, packed", "sm_120"),
    ("qk bf16 d128 causal, bias", "sm_80"),
    ("logsumexp fp32 batch 1, heads 8 of 1, length 33, d64, bias mask sinks", "sm_80"),
    ("logsumexp fp32 batch 1, heads 8 of 1, length 33, d64", "sm_75"),
]
SAMPLE = list(dict.fromkeys(SAMPLE))


@pytest.mark.parametrize(("name", "arch"), SAMPLE)
def test_kernel_keeps_its_promises_and_the_page_is_up_to_date(name, arch, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # what is asserted was compiled here and now
    case = CASES[name]
    reports = compile_launch(case.launch, arch)
    faults = [fault for kernel, report in reports.items() for fault in case.faults(kernel, report, arch)]
    if COMPILER != (3, 7):  # the tiles were chosen with the compiler that is locked; a few bytes spilled cost time, not truth
        faults = [fault for fault in faults if "spilled" not in fault]
    assert not faults
    if COMMITTED and case.shown:  # written by this very compiler
        committed = {kernel: COMMITTED[name, kernel, arch] for kernel in reports}
        assert {kernel: cell(report) for kernel, report in reports.items()} == committed, "run python -m benchmarks.kernels.report"


def test_the_page_lists_every_case_and_no_other():
    assert not COMMITTED or {name for name, _, _ in COMMITTED} == {name for name, case in CASES.items() if case.shown}


def test_the_page_of_another_compiler_is_not_compared(monkeypatch):
    from benchmarks.kernels import report

    monkeypatch.setattr(report.triton, "__version__", "0.0")
    assert committed_cells() == {}


def test_a_wasteful_kernel_is_caught():
    case = CASES["qk bf16 d64 causal"]
    (report,) = compile_launch(case.launch, "sm_90").values()
    assert not case.faults("qk_kernel", report, "sm_90")
    broken = replace(report, spilled_bytes=8, matrix=0, vector_loads=0, shared_bytes=1 << 20)
    assert [fault.rsplit(": ", 1)[1].split(" ")[1] for fault in case.faults("qk_kernel", broken, "sm_90")] == [
        "bytes",
        "bytes",
        "matrix",
        "vector",
    ]


def test_where_no_tile_fits_nothing_is_compiled():
    def launch():
        raise NoTile("qk")

    assert compile_launch(Case("none", launch).launch, "sm_90") == {}
