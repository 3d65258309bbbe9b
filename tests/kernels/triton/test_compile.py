"""Every kernel compiles ahead of time for each architecture: no spills, room in shared memory, the instructions promised. No GPU needed."""

from dataclasses import replace

import pytest

from benchmarks.kernels.cases import cases
from benchmarks.kernels.compile import TARGETS, compile_launch
from benchmarks.kernels.report import cell, committed_cells

CASES = {case.name: case for case in cases()}
COMMITTED = committed_cells()


@pytest.mark.parametrize("arch", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_kernel_keeps_its_promises_and_the_page_is_up_to_date(name, arch, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # what is asserted was compiled here and now
    case = CASES[name]
    reports = compile_launch(case.launch, arch)
    assert reports
    assert not [fault for kernel, report in reports.items() for fault in case.faults(kernel, report, arch)]
    if COMMITTED:  # written by this very compiler
        committed = {kernel: COMMITTED[name, kernel, arch] for kernel in reports}
        assert {kernel: cell(report) for kernel, report in reports.items()} == committed, "run python -m benchmarks.kernels.report"


def test_the_page_lists_every_case_and_no_other():
    assert not COMMITTED or {name for name, _, _ in COMMITTED} == set(CASES)


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
