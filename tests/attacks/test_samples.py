"""Samples of the attacks in ``benchmarks.attacks``, whose commands run them in full."""

import os
import subprocess
import sys

import pytest

from benchmarks.attacks import shim, writers


@pytest.mark.skipif(shim.compiler() is None, reason="needs Linux and a C compiler")
def test_a_kill_at_any_file_operation_leaves_the_old_file_or_the_new_and_nothing_else_for_good():
    command = [sys.executable, "-m", "benchmarks.attacks.kills", "--every", "11"]
    shown = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    kills = {line.split(": ")[0]: int(line.split(": ")[1].split()[0]) for line in shown.stdout.splitlines() if line.endswith("kills")}
    assert kills.keys() == {"save", "analyze", "shard", "page", "csv", "json"}
    assert sum(kills.values()) >= 40


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_two_writers_and_kills_never_publish_a_wrong_archive(tmp_path):
    result = writers.run(tmp_path, loads=300, writers=2, readers=1)
    assert result["loads"] == 300
    assert result["writes"] > 2
    assert (result["wrong"], result["failed"], result["left"]) == (0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by /proc and RLIMIT_AS")
def test_mutated_files_end_in_our_error_or_read_right():
    command = [sys.executable, "-m", "benchmarks.attacks.mutants", "--budget", "600", "--seed", "1"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for kind in ("archive", "json", "state", "table", "resume", "shards", "statistics"):
        assert f"{kind}: refused" in shown.stdout


@pytest.mark.browser
def test_pages_with_mutated_data_open_or_say_what_is_damaged():
    command = [sys.executable, "-m", "benchmarks.attacks.pages", "--budget", "15", "--seed", "2"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "told" in shown.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_processes_killed_at_random_and_restarted_in_other_numbers_equal_one_process():
    command = [sys.executable, "-m", "benchmarks.attacks.ranks", "--rounds", "2", "--texts", "60", "--seed", "3"]
    shown = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "0 faults in 2 rounds" in shown.stdout
