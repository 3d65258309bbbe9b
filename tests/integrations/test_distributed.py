"""Two processes under torchrun (gloo): DDP, FSDP2, the Trainer and Lightning; the scenarios are in distributed_worker.py."""

import os
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("distributed_worker.py")


def test_both_processes_read_the_health_of_all_texts_whatever_trains(tmp_path):
    root = str(WORKER.parents[2])
    settings = {"PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(WORKER), str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    for scenario in ("ddp", "fsdp2", "an_empty_rank", "trainer", "lightning"):
        assert done.stdout.count(f"{scenario} done") == 2, done.stdout
