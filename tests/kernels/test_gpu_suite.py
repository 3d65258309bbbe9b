"""tests/gpu walked through without a GPU: ``"cuda"`` is the CPU, torch serves in the place of the kernels, and inductor compiles nothing.

Every value of every parameter comes once. What comes out says nothing of a device; but its first run there does not die of a typo.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attviz.hooks.session import graphs
from tests.gpu import test_capture, test_flex, test_kernels

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run tests/gpu itself"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:flex_attention called without torch.compile"),
]
FACTORIES = ("arange", "empty", "full", "linspace", "ones", "rand", "randint", "randn", "tensor", "zeros")
ONLY_THERE = ("EFFICIENT_ATTENTION", "CUDNN_ATTENTION")  # backends that the CPU does not have


def walked() -> Iterator[Any]:
    """Each test, with every value of each of its parameters once."""
    for module in (test_capture, test_flex, test_kernels):
        for name, function in vars(module).items():
            if not name.startswith("test_"):
                continue
            marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
            values = [list(mark.args[1]) for mark in marks]
            for turn in range(max(map(len, values), default=1)):
                chosen = {mark.args[0]: several[turn % len(several)] for mark, several in zip(marks, values, strict=True)}
                label = "-".join(str(getattr(value, "name", value)) for value in chosen.values())
                yield pytest.param(function, chosen, id=f"{name}[{label}]")


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    def on_cpu(make):
        return functools.wraps(make)(lambda *args, device=None, **kw: make(*args, device="cpu" if device == "cuda" else device, **kw))

    for name in FACTORIES:
        monkeypatch.setattr(torch, name, on_cpu(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", ["error", "default"].index)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 0))
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode=None, **options: compiled(model, backend="aot_eager", **options))
    monkeypatch.setattr(graphs, "_on_cuda", lambda model: True)


@pytest.mark.parametrize(("function", "arguments"), list(walked()))
def test_walked_through(function, arguments, monkeypatch):
    if "replayed" in function.__name__:
        monkeypatch.setattr(graphs, "_replays", lambda region: True)
    if getattr(arguments.get("backend"), "name", "") in ONLY_THERE:
        with pytest.raises(RuntimeError, match="No available kernel"):
            function(**arguments)
    else:
        function(**arguments)


def test_every_file_of_the_suite_is_walked_through():
    files = {path.stem for path in Path(test_kernels.__file__).parent.glob("test_*.py")}
    assert files == {module.__name__.rsplit(".", 1)[1] for module in (test_capture, test_flex, test_kernels)}
