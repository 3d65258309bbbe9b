"""A kernel whose log-sum-exp is wrong is found out at its first call, and its diagonals are right all the same."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch.library import Library

import attviz
from attviz.calls import FusedCall, trust
from attviz.calls.packed import PackedCall
from attviz.errors import CaptureWarning
from attviz.hooks.tap.operators import sdpa
from attviz.hooks.tap.operators.registry import Operator
from tests.tiny import Encoder, reference

FAULTS = {
    "another base": lambda lse: lse / math.log(2),
    "off by ln 2": lambda lse: lse + math.log(2),
    "zeros": torch.zeros_like,
    "empty": lambda lse: lse[..., :0],
    "shifted": lambda lse: lse.roll(1, -1),
    "nan": lambda lse: torch.full_like(lse, torch.nan),
}


@pytest.fixture(autouse=True)
def _fresh():
    trust.forget()
    yield
    trust.forget()


def plant(monkeypatch: pytest.MonkeyPatch, fault) -> None:
    """Let the kernel's reader hand on a wrong log-sum-exp."""
    right = sdpa.OPERATORS[0]

    def read(args, kwargs, result):
        return right.read(args, kwargs, (result[0], fault(result[1])))

    table = attviz.hooks.tap.operators.registry._table
    monkeypatch.setattr(table, "entries", table.entries)
    attviz.register_operator(Operator(right.name, read, "fused", ("CPU",)), replace=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found_and_the_diagonal_is_right(monkeypatch, fault, causal, dtype):
    attviz.hooks.tap.operators.registered()
    plant(monkeypatch, FAULTS[fault])
    model, x = Encoder(causal=causal, num_kv_heads=2).eval(), torch.randn(2, 7, 32)
    truth = reference(model, x)
    with pytest.warns(
        CaptureWarning, match=r"_flash_attention_for_cpu returned for torch\.\w+ on cpu does not match a direct computation"
    ) as seen:
        with attviz.capture(model.to(dtype)) as cap:
            model(x.to(dtype))
    assert len(seen) == 1  # once, not once a layer
    torch.testing.assert_close(cap.diagonal.double(), truth, rtol=0, atol=1e-5 if dtype is torch.float32 else 3e-2)  # the truth is float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with attviz.capture(model) as again:
            model(x.to(dtype))
    assert torch.equal(again.diagonal, cap.diagonal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padded", [False, True])
def test_right_kernel_is_trusted(dtype, padded):
    query, key = torch.randn(2, 4, 9, 8, dtype=dtype) * 4, torch.randn(2, 2, 9, 8, dtype=dtype) * 4
    bias = None
    if padded:
        bias = torch.zeros(2, 1, 9, 9, dtype=dtype)
        bias[1, :, :, 5:] = -torch.inf
        bias[0, :, 0] = -torch.inf  # a row that sees nothing
    heads = key.repeat_interleave(2, 1)
    result = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, heads, heads, attn_mask=bias)
    call = FusedCall("kernel", query, key, result[1], 8**-0.5, bias)
    assert trust.checked(call) is call
    assert trust._verdicts == {("kernel", dtype, query.device): True}


def test_rows_that_see_nothing_decide_nothing():
    query = torch.randn(1, 1, 3, 8)
    call = FusedCall("kernel", query, query, torch.zeros(1, 1, 3), 1.0, torch.full((3, 3), -torch.inf))
    assert trust.checked(call) is call
    assert not trust._verdicts


def test_check_runs_once_for_a_kernel(monkeypatch):
    times = []
    direct = trust._direct
    monkeypatch.setattr(trust, "_direct", lambda *args: times.append(1) or direct(*args))
    model, x = Encoder(num_layers=3).eval(), torch.randn(1, 5, 32)
    for _ in range(2):
        with attviz.capture(model):
            model(x)
    assert len(times) == 1
    with attviz.capture(model.double()):
        model(x.double())
    assert len(times) == 2


def test_operator_of_another_package_is_checked_too():
    """A registered operator, as a backend outside torch would bring it, with a log-sum-exp in base 2."""
    library = Library("attviz_test", "DEF")
    library.define("attend(Tensor query, Tensor key, Tensor value) -> (Tensor, Tensor)")

    def attend(query, key, value):
        scores = query @ key.mT * query.shape[-1] ** -0.5
        return scores.softmax(-1) @ value, scores.logsumexp(-1) / math.log(2)

    library.impl("attend", attend, "CPU")

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = torch.nn.Linear(8, 24)

        def forward(self, x):
            return torch.ops.attviz_test.attend(*self.qkv(x)[:, None].chunk(3, -1))[0]

    def read(args, kwargs, result):
        return FusedCall("attviz_test::attend", args[0], args[1], result[1], scale=args[0].shape[-1] ** -0.5)

    attviz.register_operator(Operator("attviz_test::attend", read, "fused"))
    try:
        model, x = Attention(), torch.randn(2, 5, 8)
        with pytest.warns(CaptureWarning, match="attviz_test::attend"), torch.no_grad(), attviz.capture(model) as cap:
            model(x)
        query, key, _ = model.qkv(x)[:, None].double().chunk(3, -1)
        truth = (query @ key.mT * 8**-0.5).softmax(-1).diagonal(0, -2, -1)
        torch.testing.assert_close(cap.diagonal[0].double(), truth, rtol=0, atol=1e-6)
    finally:
        attviz.hooks.tap.operators.registry.unregister_operator("attviz_test::attend")
        library._destroy()


@pytest.mark.parametrize("holds_sinks", [False, True])
def test_sinks_that_weigh_little_do_not_settle_how_a_kernel_counts_them(holds_sinks):
    """One query, three keys: with its sink left out the diagonal is off by 0.0019 only, which the bound would let pass."""
    torch.manual_seed(0)
    query, key, heavy = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 3, 8), torch.tensor([5.0])
    for sinks in (torch.tensor([-0.0209]), heavy, torch.tensor([-0.0209])):  # the second call tells the ways apart
        logits = (query.double() @ key.double().mT)[0, 0, 0]
        columns = torch.cat([logits, sinks.double()])
        lse = (columns if holds_sinks else logits).logsumexp(0).float().reshape(1, 1, 1)
        call = PackedCall("flash", query, key, lse, {"scale": 1.0, "sinks": sinks})
        torch.testing.assert_close(call.diagonal().double().flatten(), columns.softmax(0)[2:3], rtol=0, atol=1e-6)
    assert trust.known("flash with sinks (0)" if holds_sinks else "flash with sinks", query)
