"""Pooling over real processes (gloo): the scenarios are in distributed_worker.py, and assert on every rank."""

import os
import signal
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("distributed_worker.py")


def run(scenario, world, folder):
    """Start the ranks, wait for all, and give their (code, output)."""
    root = str(WORKER.parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", str(WORKER), scenario]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in range(world)
    ]
    try:
        return [(rank.wait(timeout=200), rank.stdout.read()) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.stdout.close()


def assert_done(results):
    for rank, (code, output) in enumerate(results):
        assert code == 0, f"rank {rank} ended with {code}:\n{output}"
        assert output.strip().endswith("done")


def test_four_processes_pool_by_all_reduce_alone(tmp_path):
    assert_done(run("pool", 4, tmp_path))


def test_a_killed_rank_is_an_error_elsewhere_and_the_run_resumes_exactly(tmp_path):
    (survivor, killed) = run("die", 2, tmp_path)
    assert killed[0] == -signal.SIGKILL, killed[1]
    assert_done([survivor])
    assert_done(run("resume", 2, tmp_path))
