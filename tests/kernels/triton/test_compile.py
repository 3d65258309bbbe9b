"""Every kernel compiles ahead of time for each architecture: no spills, room in shared memory, the instructions promised. No GPU needed."""

import pytest

from benchmarks.kernels.cases import CORE, cases
from benchmarks.kernels.compile import TARGETS, compile_launch

CASES = {case.name: case for case in cases()}


def test_the_core_cases_exist():
    assert set(CORE) <= set(CASES)


@pytest.mark.parametrize("arch", TARGETS)
@pytest.mark.parametrize("name", CORE)
def test_kernel_keeps_its_promises(name, arch, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # what is asserted was compiled here and now
    case = CASES[name]
    reports = compile_launch(case.launch, arch)
    assert reports
    faults = [fault for kernel, report in reports.items() for fault in case.faults(kernel, report, arch)]
    assert not faults


def test_a_wasteful_kernel_is_caught():
    case = CASES["qk bf16 d64 causal"]
    (report,) = compile_launch(case.launch, "sm_90").values()
    assert not case.faults("qk_kernel", report, "sm_90")
    from dataclasses import replace

    broken = replace(report, spilled_bytes=8, matrix=0, vector_loads=0, shared_bytes=1 << 20)
    assert [fault.rsplit(": ", 1)[1].split(" ")[1] for fault in case.faults("qk_kernel", broken, "sm_90")] == [
        "bytes",
        "bytes",
        "matrix",
        "vector",
    ]
