"""The Triton twin of diagonal_from_qk in the CPU interpreter, against dense float64 attention."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.kernels import diagonal_from_qk, summary_from_qk
from attviz.kernels import qk as operator
from attviz.kernels.references import summary_from_qk_reference
from attviz.kernels.triton import pairs, qk
from tests.kernels.far import STRIDES, far

pytestmark = [pytest.mark.interpreter, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy warns of nan in branches not taken
FIELDS = ("diagonal", "logsumexp", "row_entropy", "row_max_logit", "first_token")
HALF = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _through_triton(monkeypatch, small_blocks):
    small_blocks(BLOCK_Q=16, BLOCK_K=16)
    monkeypatch.setattr(operator, "_qk_op", qk.launch)


def assert_summary(query, key, tolerance=2e-5, **options):
    actual, expected = summary_from_qk(query, key, **options), summary_from_qk_reference(query, key, **options)
    for name in FIELDS:
        have, want = getattr(actual, name).double(), getattr(expected, name)
        torch.testing.assert_close(have, want, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def heads(batch, num_heads, length, head_dim, dtype=torch.float32, transposed=True):
    if transposed:
        return torch.randn(batch, length, num_heads, head_dim).to(dtype).transpose(1, 2)
    return torch.randn(batch, num_heads, length, head_dim).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize(("head_dim", "num_kv_heads"), [(16, 2), (40, 1), (64, 2)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_dtype_head_dim_groups_and_causality(dtype, head_dim, num_kv_heads, is_causal):
    query, key = heads(1, 2, 19, head_dim, dtype), heads(1, num_kv_heads, 35, head_dim, dtype, transposed=False)
    assert_summary(query, key, is_causal=is_causal)


OPTIONS = {
    "left window": {"window_size": (5, -1)},
    "right window": {"window_size": (-1, 3)},
    "narrow window": {"window_size": (2, 1)},
    "causal window, top left": {"window_size": (20, 0), "is_causal": True, "causal_alignment": "top_left"},
    "top left": {"is_causal": True, "causal_alignment": "top_left"},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": torch.linspace(-2, 3, 4)},
    "alibi": {"alibi_slopes": torch.linspace(0.1, 0.5, 4)},
    "alibi of each batch element": {"alibi_slopes": torch.linspace(0.1, 0.5, 8).view(2, 4), "is_causal": True},
    "first slot": {"kv_offset": 0},
    "middle slot": {"kv_offset": 7, "is_causal": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option(name):
    assert_summary(heads(2, 4, 17, 16), heads(2, 2, 33, 16), **OPTIONS[name])


@pytest.mark.parametrize("shape", [(33,), (17, 33), (2, 1, 33), (2, 1, 17, 1), (2, 2, 17, 33), (1, 1, 1, 1)])
@pytest.mark.parametrize("kind", ["float", "bool"])
def test_each_broadcast_shape_of_a_bias(shape, kind):
    bias = torch.randn(shape) if kind == "float" else torch.rand(shape) > 0.4
    assert_summary(heads(2, 2, 17, 16), heads(2, 2, 33, 16), bias=bias, is_causal=True)


@settings(max_examples=12, deadline=None)
@given(
    q_len=st.integers(1, 40),
    extra=st.integers(0, 20),
    is_causal=st.booleans(),
    window=st.sampled_from([(-1, -1), (3, 0), (17, 2)]),
    alignment=st.sampled_from(["bottom_right", "top_left"]),
    cap=st.sampled_from([0.0, 2.0]),
    padded=st.booleans(),
    sinks=st.booleans(),
)
def test_any_shape_and_mix_of_options(q_len, extra, is_causal, window, alignment, cap, padded, sinks):
    options = {"is_causal": is_causal, "window_size": window, "causal_alignment": alignment, "softcap": cap}
    if padded:
        options["key_mask"] = torch.rand(2, q_len + extra) > 0.4
    if sinks:
        options["sinks"] = torch.randn(2)
    assert_summary(heads(2, 2, q_len, 16), heads(2, 1, q_len + extra, 16), **options)


@pytest.mark.parametrize("is_causal", [False, True])
def test_packed_sequences(is_causal):
    edges_q, edges_k = torch.tensor([0, 18, 18, 21], dtype=torch.int32), torch.tensor([0, 20, 25, 61], dtype=torch.int32)
    query, key = heads(1, 2, 21, 16), heads(1, 1, 61, 16)
    assert_summary(query, key, cu_seqlens_q=edges_q, cu_seqlens_k=edges_k, is_causal=is_causal)
    assert_summary(query, key, cu_seqlens_q=edges_q.long(), cu_seqlens_k=edges_k.long(), is_causal=is_causal, max_seqlen=18)


def test_rows_that_see_nothing_and_rows_masked_with_finfo_min():
    bias = torch.zeros(1, 1, 20, 20)
    bias[:, :, 3], bias[:, :, 5] = -math.inf, torch.finfo(torch.float32).min
    query, key = heads(1, 2, 20, 16), heads(1, 2, 20, 16)
    actual, expected = summary_from_qk(query, key, bias=bias), summary_from_qk_reference(query, key, bias=bias)
    assert torch.equal(actual.diagonal[:, :, 3], torch.zeros(1, 2))
    torch.testing.assert_close(actual.diagonal[:, :, 5], torch.full((1, 2), 0.05))
    assert (actual.logsumexp[:, :, 3] == -math.inf).all()
    assert (actual.logsumexp[:, :, 5] <= torch.finfo(torch.float32).min / 2).all()
    for name in ("diagonal", "row_entropy", "first_token"):
        torch.testing.assert_close(getattr(actual, name).double(), getattr(expected, name), rtol=1e-5, atol=1e-5)


def test_entropy_holds_at_logits_near_a_thousand():
    query, key = heads(1, 1, 20, 16), heads(1, 1, 40, 16)
    query[..., 0], key[..., 0] = 40.0, 25.0
    expected = summary_from_qk_reference(query, key, scale=1.0)
    assert expected.row_max_logit.min() > 900
    actual = summary_from_qk(query, key, scale=1.0)
    torch.testing.assert_close(actual.row_entropy.double(), expected.row_entropy, rtol=2e-3, atol=2e-3)  # eps of float32 at 1000 is 6e-5
    torch.testing.assert_close(actual.diagonal.double(), expected.diagonal, rtol=2e-3, atol=1e-5)  # exp of a sum near 1000


def test_nan_stays_in_its_row():
    query = heads(1, 1, 20, 16)
    query[0, 0, 2, 3] = math.nan
    rows = summary_from_qk(query, heads(1, 1, 20, 16))
    assert rows.diagonal.isnan().nonzero().tolist() == [[0, 0, 2]]


@pytest.mark.parametrize("options", [{}, {"is_causal": True, "sinks": torch.ones(2)}], ids=["plain", "causal with sinks"])
def test_the_diagonal_alone_is_that_of_the_summary(options):
    query, key = heads(2, 2, 17, 16), heads(2, 1, 33, 16)
    assert torch.equal(diagonal_from_qk(query, key, **options), summary_from_qk(query, key, **options).diagonal)


def test_blocks_of_the_committed_table(monkeypatch):
    from attviz.kernels.triton.launch import tuned

    monkeypatch.setattr(pairs, "tuned", tuned)
    assert_summary(heads(1, 2, 130, 64), heads(1, 1, 150, 64), is_causal=True)


def test_a_sink_is_the_logsumexp_of_a_row_masked_with_finfo_min():
    query, key, bias = heads(1, 2, 20, 16), heads(1, 2, 20, 16), torch.zeros(20, 20)
    bias[5] = torch.finfo(torch.float32).min
    options = {"bias": bias, "sinks": torch.tensor([1.5, -4.0])}
    actual, expected = summary_from_qk(query, key, **options), summary_from_qk_reference(query, key, **options)
    for name in ("diagonal", "logsumexp", "row_entropy", "first_token"):
        torch.testing.assert_close(getattr(actual, name).double(), getattr(expected, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", STRIDES)
def test_offsets_past_2_to_the_31_are_reached(kind):
    assert_summary(far(kind), far(kind), is_causal=True)
