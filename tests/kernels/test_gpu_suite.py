"""tests/gpu walked through without a GPU: ``"cuda"`` is the CPU, torch serves in the place of the kernels, and inductor compiles nothing.

Every value of every parameter comes once. What comes out says nothing of a device; but its first run there does not die of a typo.
"""

from __future__ import annotations

import contextlib
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
SUITE = (test_capture, test_flex, test_kernels)
ONLY_THERE = (  # what the CPU does not have, and says so
    ({"EFFICIENT_ATTENTION", "CUDNN_ATTENTION"}, "No (viable backend|available kernel)"),
    ({"gpt_oss"}, "sinks cannot be run on CPU"),
)


def walked() -> Iterator[Any]:
    """Each test, with every value of each of its parameters once."""
    for module in SUITE:
        for name, function in vars(module).items():
            if not name.startswith("test_"):
                continue
            marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
            values = [list(mark.args[1]) for mark in marks]
            for turn in range(max(map(len, values), default=1)):
                chosen = {mark.args[0]: several[turn % len(several)] for mark, several in zip(marks, values, strict=True)}
                label = "-".join(str(getattr(value, "name", value)) for value in chosen.values())
                yield pytest.param(function, chosen, id=f"{name}[{label}]")


class Torch:
    """What a test of the suite finds under the name ``torch``."""

    def __getattr__(self, name: str) -> Any:
        there = getattr(torch, name)
        if name not in FACTORIES:
            return there
        return lambda *args, device=None, **options: there(*args, device="cpu" if device == "cuda" else device, **options)

    def compile(self, model: Any, mode: str | None = None, **options: Any) -> Any:
        return torch.compile(model, backend="aot_eager", **options)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    for module in SUITE:
        monkeypatch.setattr(module, "torch", Torch())
    empty = test_kernels.TokenState.empty
    monkeypatch.setattr(test_kernels.TokenState, "empty", lambda tokens, heads, device=None: empty(tokens, heads))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", ["error", "default"].index)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 0))
    monkeypatch.setattr(graphs, "_on_cuda", lambda model: True)


@pytest.mark.parametrize(("function", "arguments"), list(walked()))
def test_walked_through(function, arguments, monkeypatch):
    reason = next((why for values, why in ONLY_THERE if {getattr(v, "name", v) for v in arguments.values()} & values), None)
    if "replayed" in function.__name__:
        monkeypatch.setattr(graphs, "_replays", lambda region: True)
    refused = contextlib.nullcontext() if reason is None else pytest.raises((RuntimeError, ValueError), match=reason)
    stance = "force_eager" if function.__module__ == test_flex.__name__ else "default"  # transformers compiles for minutes
    with torch.compiler.set_stance(stance), refused:
        function(**arguments)


def test_every_file_of_the_suite_is_walked_through():
    files = {path.stem for path in Path(test_kernels.__file__).parent.glob("test_*.py")}
    assert files == {module.__name__.rsplit(".", 1)[1] for module in SUITE}
