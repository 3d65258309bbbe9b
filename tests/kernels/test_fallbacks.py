"""Every operator with a Triton twin computes the same in torch when its launch fails, and the page lists it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

import attviz
from attviz import kernels
from attviz import readings as r
from attviz.calls import fused, packed, padded, scored
from attviz.errors import CaptureWarning
from attviz.hooks.session import waiting
from attviz.kernels import logsumexp, passes, qk, small_calls, tokens, twins, weights
from attviz.kernels.tokens import TokenOrder, TokenState
from tests.tiny import Encoder

OPERATORS = {
    "diagonal_from_logsumexp": (logsumexp._logsumexp_op, "logsumexp"),
    "diagonal_from_qk": (qk._qk_op, "qk"),
    "received_from_logsumexp": (passes._received_op, "received"),
    "mass_from_logsumexp": (passes._mass_op, "mass"),
    "diagonal_from_weights": (weights._weights_op, "weights"),
    "weights_of_calls": (small_calls._calls_op, "small_calls"),
    "merge_by_token": (tokens._merge_op, "tokens"),
}
HOMES = (logsumexp, passes, qk, small_calls, tokens, weights)
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
    home, attribute = next((home, name) for home in HOMES for name, value in vars(home).items() if value is operator)
    monkeypatch.setattr(home, attribute, on_cuda)
    with pytest.warns(CaptureWarning, match=rf"{name} could not be compiled or launched(.|\n)*out of resource"):
        found = call(name)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    call(name)
    assert tried == [1]


def test_every_operator_with_a_twin_is_here_and_on_the_page():
    """A new one has a fallback that is tested, or this fails."""
    known = {operator for operator, _ in OPERATORS.values()}
    made = {value for module in HOMES for value in vars(module).values() if isinstance(value, torch._library.custom_ops.CustomOpDef)}
    assert made == known | {passes._facts_op}  # in torch everywhere: on a GPU diagonal_from_qk gives the same
    files = (Path(twins.__file__).parent / "triton").glob("*.py")
    twins_there = {path.stem for path in files if re.search(r"^def launch\(", path.read_text(), re.MULTILINE)}
    assert twins_there == {twin for _, twin in OPERATORS.values()}
    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in OPERATORS)


READINGS = (r.Offset(-1, name="previous"), r.Received(), r.Window(2), r.Distance(), r.RowEntropy(), r.MaxLogit(), r.Rows(-1))


@pytest.fixture
def broken_gpu(monkeypatch):
    """A GPU on which no kernel of ours can be launched: tensors of the CPU, taken for its own. Gives what was tried."""
    tried = []

    def broken(name):
        def launch(*_, **__):
            tried.append(name)
            raise RuntimeError("no kernel image is available for execution on the device")

        return launch

    for module in (waiting, fused, packed, padded, scored, small_calls, logsumexp):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: True)
    for name, (operator, twin) in OPERATORS.items():
        monkeypatch.setattr(f"attviz.kernels.triton.{twin}.launch", broken(name))
        home, attribute = next((home, name) for home in HOMES for name, value in vars(home).items() if value is operator)
        monkeypatch.setattr(home, attribute, operator._backend_fns["cuda"])
    for home, name in ((logsumexp, "diagonal_from_logsumexp"), (small_calls, "weights_of_calls")):  # the way below the operator
        monkeypatch.setattr(home, "_launcher", lambda name=name: broken(name))
    return tried


@pytest.mark.parametrize("tokens", [7, 140])  # small calls, which the end of the forward finishes, and calls of their own
def test_a_capture_goes_on_when_every_launch_fails_and_says_so_once(tokens, request):
    model, x = Encoder(num_kv_heads=2, causal=True).eval(), torch.randn(1, tokens, 32)

    def read():
        with torch.no_grad(), attviz.capture(model) as cap:
            outputs = [model(x) for _ in range(4)]
        with torch.no_grad(), attviz.capture(model, read=READINGS, metrics=attviz.metrics.VocabularyStatistics(9), token_ids=ids) as full:
            outputs.append(model(x))
        assert all(torch.equal(output, outputs[0]) for output in outputs)
        return cap.diagonal, *(full.reading(reading.name) for reading in READINGS)

    ids = torch.arange(tokens)[None] % 9
    expected = read()
    tried = request.getfixturevalue("broken_gpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)
    messages = [str(warning.message) for warning in caught]
    assert all("Cause: RuntimeError: no kernel image is available" in message for message in messages)
    failed = [re.search(r"the Triton kernel of (\w+)", message)[1] for message in messages]
    assert len(failed) == len(set(failed)) == len(tried)
    wanted = {"diagonal_from_logsumexp", "received_from_logsumexp", "mass_from_logsumexp", "diagonal_from_qk", "merge_by_token"}
    assert set(failed) == wanted | ({"weights_of_calls"} if tokens == 7 else set())
