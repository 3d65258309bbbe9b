"""The GPU suite: marked `gpu` as a whole, and skipped, saying so, where there is no device."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
# Elsewhere every warning is an error. Here the device's own (a prototype mode, TensorFloat-32 not enabled, few multiprocessors) say
# nothing about attviz, and cannot be known before there is a device; what attviz itself warns of stays an error.
WARNINGS = pytest.mark.filterwarnings("default", "error::attviz.errors.CaptureWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(WARNINGS)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no GPU: torch.cuda.is_available() is False"))
