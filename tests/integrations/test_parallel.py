"""Models that several processes run together, on two gloo ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attviz
from attviz.errors import ArgumentError


@pytest.mark.skipif(torch.__version__ < "2.10", reason="torch 2.9: layers of tensor parallel models are skipped (docs/limits.md)")
def test_records_say_which_heads_a_rank_holds_and_gather_joins_them(tmp_path):
    root = str(Path(__file__).parents[2])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    command = [*torchrun, "tests.integrations.parallel_worker", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False, timeout=280)
    assert shown.returncode == 0, shown.stdout[-1000:] + shown.stderr[-5000:]
    for what in ("by hand", "fsdp2", "transformers"):
        assert shown.stdout.count(f"{what} done") == 2


def test_gather_without_processes_is_refused():
    with pytest.raises(ArgumentError, match="gather=True joins the ranks of torch.distributed, which is not initialised"):
        attviz.capture(torch.nn.MultiheadAttention(8, 2), gather=True)
