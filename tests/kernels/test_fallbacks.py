"""Every operator with a Triton twin computes the same in torch when its launch fails, and the page lists it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attviz import kernels
from attviz.errors import CaptureWarning
from attviz.kernels import logsumexp, passes, qk, small_calls, tokens, twins, weights
from attviz.kernels.tokens import TokenOrder, TokenState

OPERATORS = {
    "diagonal_from_logsumexp": (logsumexp._logsumexp_op, "logsumexp"),
    "diagonal_from_qk": (qk._qk_op, "qk"),
    "received_from_logsumexp": (passes._received_op, "received"),
    "mass_from_logsumexp": (passes._mass_op, "mass"),
    "diagonal_from_weights": (weights._weights_op, "weights"),
    "weights_of_calls": (small_calls._calls_op, "small_calls"),
    "merge_by_token": (tokens._merge_op, "tokens"),
}
PAGE = Path(__file__).parents[2] / "docs" / "attention-kernels.md"


@pytest.fixture(autouse=True)
def _forget():
    twins.forget_failures()
    yield
    twins.forget_failures()


def call(name: str):
    """The function of a name on small inputs, and what it changed or gave."""
    torch.manual_seed(0)
    query, lse = torch.randn(1, 2, 6, 16), torch.full((1, 2, 6), 3.0)
    if name == "merge_by_token":
        state = TokenState.empty(5, 2)
        kernels.merge_by_token(state, TokenOrder.of(torch.arange(6)[None] % 5), torch.rand(1, 2, 6))
        return torch.cat([part.flatten().double() for part in state])
    if name == "weights_of_calls":
        return small_calls._calls_op([query] * 2, [query] * 2, [lse] * 2, [], 0.25, [0, 0], None, False)
    given = {
        "diagonal_from_logsumexp": (query, query, lse),
        "diagonal_from_qk": (query, query),
        "received_from_logsumexp": (query, query, lse),
        "mass_from_logsumexp": (query, query, lse, torch.rand(6, 3)),
        "diagonal_from_weights": (torch.rand(1, 2, 6, 6),),
    }
    return getattr(kernels, name)(*given[name])


@pytest.mark.parametrize("name", OPERATORS)
def test_a_launch_that_fails_is_computed_by_torch(name, monkeypatch):
    expected = call(name)
    operator, twin = OPERATORS[name]
    module = __import__(f"attviz.kernels.triton.{twin}", fromlist=["launch"])
    tried = []

    def broken(*_, **__):
        tried.append(1)
        raise RuntimeError("out of resource: shared memory")

    monkeypatch.setattr(module, "launch", broken)
    on_cuda = operator._backend_fns["cuda"]  # what runs for tensors on CUDA, here for those of the CPU
    homes = (logsumexp, passes, qk, small_calls, tokens, weights)
    home, attribute = next((home, name) for home in homes for name, value in vars(home).items() if value is operator)
    monkeypatch.setattr(home, attribute, on_cuda)
    with pytest.warns(CaptureWarning, match=rf"{name} could not be compiled or launched(.|\n)*out of resource"):
        found = call(name)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    call(name)
    assert tried == [1]


def test_every_operator_with_a_twin_is_here_and_on_the_page():
    """A new one has a fallback that is tested, or this fails."""
    known = {operator for operator, _ in OPERATORS.values()}
    made = {
        value
        for module in (logsumexp, passes, qk, small_calls, tokens, weights)
        for value in vars(module).values()
        if isinstance(value, torch._library.custom_ops.CustomOpDef)
    }
    assert made == known
    twins_there = {path.stem for path in (Path(twins.__file__).parent / "triton").glob("*.py")} - {"__init__", "device_functions", "launch"}
    assert twins_there == {twin for _, twin in OPERATORS.values()}
    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in OPERATORS)
