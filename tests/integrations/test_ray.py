"""Stages for Ray Data: on a local Ray of two workers, and called by hand where Ray is not needed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attviz import metrics
from attviz.errors import ArgumentError
from attviz.integrations.ray import DiagonalStage, StatisticsStage, pool_states
from tests.text_models import classifier, config, tokenizer  # noqa: F401  # fixtures


@pytest.fixture
def folder(classifier, tokenizer, tmp_path):  # noqa: F811
    classifier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
@pytest.mark.timeout(660)  # as long as the process below has: on a busy machine Ray takes minutes to start
def test_a_local_ray_of_two_workers_gives_what_one_process_gives(folder):
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("TMPDIR", None)  # that of nox lies in its environment, where Ray's workers refuse to start
    command = [sys.executable, "-m", "tests.integrations.ray_worker", folder]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False, timeout=600)
    assert shown.returncode == 0, shown.stdout[-1000:] + shown.stderr[-3000:]
    assert "ray done" in shown.stdout


def test_a_stage_says_what_does_not_fit(folder, classifier, tokenizer):  # noqa: F811
    with pytest.raises(ArgumentError, match="columns must be some of tokens, token_ids, diagonal, mean, head_mean; got 'text'"):
        DiagonalStage(folder, columns=("text",))
    with pytest.raises(ArgumentError, match="DiagonalStage: delimiter is not allowed here: each text of a batch must become one row"):
        DiagonalStage(folder, delimiter="|")
    stage = DiagonalStage(lambda: (classifier, tokenizer), text_column="body", columns=("token_ids", "head_mean"))
    with pytest.raises(ArgumentError, match=r"no column 'body' in the batch; found 'text'. Pass text_column=."):
        stage({"text": np.array(["match"])})
    made = stage({"body": np.array(["the bridge", "match"])})
    assert [len(ids) for ids in made["attviz_token_ids"]] == [4, 3]
    assert made["attviz_head_mean"][0].shape == (2, 4)
    states = StatisticsStage(lambda: (classifier, tokenizer), lambda: [metrics.HeadStatistics()])
    row = {name: column[0] for name, column in states({"text": np.array(["match"])}).items()}
    assert int(pool_states([row, row], [metrics.HeadStatistics()])[0].compute().count[0, 0]) == 6
    with pytest.raises(ArgumentError, match="the rows hold the states of 1 metrics, and 2 were given"):
        pool_states([row], [metrics.HeadStatistics(), metrics.HeadStatistics()])
