"""flex_attention with a ``score_mod`` on a GPU: what is compiled is one kernel, holds no matrix, and is right; what fails falls back."""

from __future__ import annotations

import re

import pytest
import torch
from torch._inductor.utils import run_and_get_code
from torch.nn.attention.flex_attention import create_block_mask

from attviz.calls import ScoredCall, compiled, scored, trust
from attviz.errors import CaptureWarning
from attviz.kernels import twins
from attviz.kernels.references import dense_logits

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, which inductor loads
PAST = 3


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    def forget():
        trust.forget()
        twins.forget_failures()
        compiled._compiled.cache_clear()
        compiled._compiled_flex.cache_clear()

    monkeypatch.setattr(scored, "on_gpu", lambda tensor: True)
    forget()
    yield
    forget()


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    query = torch.randn(2, 40, 4, 16).to(dtype).transpose(1, 2)
    return query, torch.randn(2, 40 + PAST, 2, 16).to(dtype).transpose(1, 2)


SLOPES, TABLE = torch.linspace(0.1, 0.4, 4), torch.linspace(-1, 1, 80).view(2, 40)


def mod(score, b, h, q, k):
    return 5.0 * torch.tanh(score / 5.0) - SLOPES[h] * (q + PAST - k).abs() + TABLE[b, q]


def causal(b, h, q, k):
    return q + PAST >= k


def truth(query, key, sinks=None):
    """Weights in float64."""
    logits = dense_logits(query, key, scale=0.3)
    logits = mod(logits, *torch.meshgrid(*(torch.arange(size) for size in logits.shape), indexing="ij"))
    logits = logits.masked_fill(torch.arange(40 + PAST) > torch.arange(40)[:, None] + PAST, -torch.inf)
    columns = logits if sinks is None else torch.cat([logits, sinks.double()[:, None, None].expand(2, 4, 40, 1)], -1)
    return columns.softmax(-1)[..., : 40 + PAST], logits.logsumexp(-1).float()


def call(query, key, lse, sinks=None):
    mask = create_block_mask(causal, None, None, 40, 40 + PAST, device="cpu")
    return ScoredCall("flex", query, key, mod, mask, 0.3, lse, sinks, PAST)


def test_the_diagonal_is_one_kernel_that_holds_no_copy_and_no_matrix():
    query, key = inputs(torch.bfloat16)
    sinks = torch.randn(4)
    weights, lse = truth(query, key, sinks)
    one = call(query, key, lse, sinks)
    one.seen()  # made once for all layers
    one.denominator()  # the first call of a kernel is checked
    found, (code,) = run_and_get_code(one.own)
    torch.testing.assert_close(found.double(), weights.diagonal(PAST, -2, -1), rtol=1e-5, atol=1e-6)
    assert code.count("async_compile.cpp_pybinding(") == 1
    buffers = re.findall(r"empty_strided_cpu\(\(([^)]*)\)", code)
    assert buffers
    assert all(len([size for size in buffer.split(",") if size.strip()]) <= 3 for buffer in buffers)  # [batch, num_heads, q_len]
    assert not twins._failed


@pytest.mark.parametrize("caps", [(2.0,), (2.0, 3.0)])
def test_numbers_that_a_score_mod_closes_over_are_constants(caps):
    """As transformers' softcap is."""

    def capped(cap):
        return lambda score, b, h, q, k: cap * torch.tanh(score / cap)

    query, key = inputs()
    for cap in caps:
        lse = dense_logits(query, key, scale=0.3, softcap=cap).logsumexp(-1).float()
        weights = torch.exp(dense_logits(query, key, scale=0.3, softcap=cap) - lse.double()[..., None])
        found = ScoredCall("flex", query, key, capped(cap), None, 0.3, lse, None, PAST).own()
        torch.testing.assert_close(found.double(), weights.diagonal(PAST, -2, -1), rtol=1e-5, atol=1e-6)
    assert not twins._failed


@pytest.fixture
def without_inductor(monkeypatch):
    """Dynamo as it is, without the compiler behind it."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")


@pytest.mark.usefixtures("without_inductor")
@pytest.mark.parametrize("given", [True, False])
def test_a_missing_logsumexp_is_asked_of_flex_attention_once_more(given, monkeypatch):
    query, key = inputs()
    weights, lse = truth(query, key)
    one = call(query, key, lse if given else None)
    asked = []
    monkeypatch.setattr(scored, "logsumexp_through", lambda *args: asked.append(1) or compiled.logsumexp_through(*args))
    monkeypatch.setattr(ScoredCall, "_at_by_hand", lambda *_: pytest.fail("the slow way"))
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(one.own(0).double(), weights.diagonal(PAST, -2, -1), **close)
    index = torch.randint(0, 40 + PAST, (2, 4, 40))
    torch.testing.assert_close(one.at(index).double(), weights.gather(-1, index[..., None])[..., 0], **close)
    assert len(asked) == (0 if given else 1)
    assert not twins._failed


def test_what_cannot_be_compiled_is_computed_by_torch_with_one_warning(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("Failed to find C compiler")

    query, key = inputs()
    weights, _ = truth(query, key)
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(CaptureWarning, match="Failed to find C compiler"):
        call(query, key, None).own(0)
    found = call(query, key, None).own(0)  # warns no more
    torch.testing.assert_close(found.double(), weights.diagonal(PAST, -2, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("without_inductor")
def test_a_wrong_logsumexp_of_the_second_flex_is_not_used(monkeypatch):
    query, key = inputs()
    weights, lse = truth(query, key)
    monkeypatch.setattr(scored, "logsumexp_through", lambda *_: lse / 2)
    with pytest.warns(CaptureWarning, match="compiled once more returned"):
        found = call(query, key, None).own(0)
    torch.testing.assert_close(found.double(), weights.diagonal(PAST, -2, -1), rtol=1e-5, atol=1e-6)
