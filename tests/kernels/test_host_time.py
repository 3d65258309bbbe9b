"""What the host does for one launch, counted instead of timed: a call on this path costs a fraction of a microsecond on every layer.

``python -m benchmarks.kernels.host_time`` has the microseconds of the same paths.
"""

import sys
from unittest import mock

import pytest
import torch

from attviz.kernels import logsumexp as operator
from attviz.kernels.triton import logsumexp
from benchmarks.kernels import host_time
from benchmarks.kernels.compile import recording

CALLS = {  # of functions, ours and builtin, a layer; a number that grows here is host time that grows, 1753 is Triton's own way
    **{"direct, prefill": 80, "direct, decode": 80, "direct, packed": 85},
    **{"decode, together": 12, "operator, prefill": 140},
}


@pytest.fixture(scope="module")
def counted():
    """Calls of functions and launches of the third run of each path."""
    kept, found = {}, {}

    def once(recorded):
        return kept.setdefault(recorded.source.hash(), host_time.Nothing(recorded))

    def count(frame, event, argument):
        calls[0] += event in ("call", "c_call")

    with recording("sm_90", once), mock.patch.object(operator, "_logsumexp_op", logsumexp.launch), torch.no_grad():
        for name, run in host_time.paths().items():
            run()
            run()
            launches, calls, before = sum(each.calls for each in kept.values()), [0], sys.getprofile()
            sys.setprofile(count)
            try:
                run()
            finally:
                sys.setprofile(before)
            layers = host_time.LAYERS if name in host_time.OF_ALL_LAYERS else 1
            found[name] = calls[0] / layers, sum(each.calls for each in kept.values()) - launches
    return found


@pytest.mark.parametrize("path", CALLS)
def test_a_launch_is_one_and_takes_few_calls_of_the_host(counted, path):
    calls, launches = counted[path]
    assert launches == 1
    assert calls <= CALLS[path]


def test_the_kept_kernel_is_what_spares_the_host_tritons_own_way(counted):
    assert counted["jit, prefill"][0] > 5 * counted["direct, prefill"][0]


def test_every_path_of_the_benchmark_is_counted_or_no_launch(counted):
    assert {name for name, (_, launches) in counted.items() if launches} == {*CALLS, "jit, prefill"}


def test_the_benchmark_prints_a_line_for_each_path(monkeypatch, capsys):
    monkeypatch.setattr(host_time, "REPEATS", 1)
    monkeypatch.setattr(host_time, "ROUNDS", 1)
    assert host_time.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:20].strip() for line in lines] == list(host_time.paths())
