"""The Triton twins of the passes in the CPU interpreter, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.kernels import passes as operators
from attviz.kernels.triton import mass, received
from tests.kernels.far import STRIDES, far
from tests.kernels.passes import assert_packed_passes, assert_passes, options_of, rows_of

pytestmark = [pytest.mark.interpreter, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy warns of nan in branches not taken


@pytest.fixture(autouse=True)
def _through_triton(monkeypatch, small_blocks):
    small_blocks(BLOCK_Q=16, BLOCK_K=16)
    monkeypatch.setattr(operators, "_received_op", received.launch)
    monkeypatch.setattr(operators, "_mass_op", mass.launch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("head_dim", "num_kv_heads"), [(16, 2), (40, 1)])
def test_dtype_head_dim_and_groups(dtype, head_dim, num_kv_heads):
    query = torch.randn(1, 35, 2, head_dim).to(dtype).transpose(1, 2)
    key = torch.randn(1, num_kv_heads, 51, head_dim).to(dtype)
    assert_passes(query, key, rows_of(query, key, {"is_causal": True}), {"is_causal": True})


@settings(max_examples=15, deadline=None)
@given(data=st.data(), q_len=st.integers(1, 40), extra=st.integers(0, 20))
def test_any_shape_and_mix_of_options(data, q_len, extra):
    query, key = torch.randn(2, 2, q_len, 16), torch.randn(2, 1, q_len + extra, 16)
    options, query_mask = data.draw(options_of(2, q_len, q_len + extra))
    assert_passes(query, key, rows_of(query, key, options), options, query_mask, data.draw(st.sampled_from([None, 0])))


@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=3), past=st.integers(0, 20), window=st.sampled_from([(-1, -1), (3, 0)]))
def test_packed_texts(lengths, past, window):
    bounds_q = torch.tensor([0, *lengths]).cumsum(0).int()
    bounds_k = torch.tensor([0, *(length + past for length in lengths)]).cumsum(0).int()
    if bounds_q[-1] == 0:
        return
    query, key = torch.randn(1, 2, int(bounds_q[-1]) + 2, 16), torch.randn(1, 2, int(bounds_k[-1]) + 3, 16)
    packed = {"window_size": window, "cu_seqlens_q": bounds_q, "cu_seqlens_k": bounds_k}
    lse = rows_of(query[:, :, : int(bounds_q[-1])], key[:, :, : int(bounds_k[-1])], packed)
    assert_packed_passes(query, key, torch.nn.functional.pad(lse, (0, 2)), bounds_q, bounds_k, {"window_size": window})


def test_a_row_that_finfo_min_hides_is_uniform():
    query, bias = torch.randn(1, 2, 20, 16), torch.zeros(20, 20)
    bias[4] = torch.finfo(torch.float32).min
    found = operators.mass_from_logsumexp(query, query, rows_of(query, query, {"bias": bias}), torch.eye(20), bias=bias)
    torch.testing.assert_close(found[:, :, 4], torch.full((1, 2, 20), 0.05))


@pytest.mark.parametrize("kind", STRIDES)
def test_offsets_past_2_to_the_31_are_reached(kind):
    query, key = far(kind), far(kind)
    assert_passes(query, key, rows_of(query, key, {"is_causal": True}), {"is_causal": True})
