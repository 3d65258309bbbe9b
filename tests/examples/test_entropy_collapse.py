"""The example of entropy collapse: its script runs as a user runs it, and its divergence is what the figure says."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "entropy_collapse.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("entropy_collapse", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["entropy_collapse"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["entropy_collapse"]


@pytest.mark.parametrize(
    ("loss", "step"),
    [([3, 2, 1], None), ([3, 4, 2, 4, 5], 3), ([3, 2, 4], 2), ([3, 4, 5], 1)],
    ids=["learns", "returns", "late", "at once"],
)
def test_divergence_is_the_step_from_which_the_loss_stays_above_its_start(example, loss, step):
    assert example.Run(loss=loss).divergence == step


def test_a_rate_that_is_far_too_high_raises_the_logit_alarm(example):
    data = torch.randint(0, 256, (5000,), generator=torch.Generator().manual_seed(0))
    calm, wild = example.train(data, 6, 1e-3, 1e-3), example.train(data, 6, 0.3, 0.3)
    assert calm.alarms == {}
    assert "exploding logit" in wild.alarms
    assert len(calm.entropy) == len(calm.logit) == 2
    assert calm.entropy[0].shape == (example.LAYERS,)


def test_the_script_writes_its_figure(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["entropy_collapse.py", "--steps", "6", "--output", str(tmp_path / "figure.png")])
    example.main()
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "sound learning rate: no alarm, no divergence" in capsys.readouterr().out
