"""The Triton twin of diagonal_from_logsumexp in the CPU interpreter, against float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.kernels import diagonal_from_logsumexp, summary_from_logsumexp
from attviz.kernels import logsumexp as operator
from attviz.kernels.references import dense_logits, diagonal_from_logsumexp_reference, summary_from_qk_reference
from attviz.kernels.summary import head_aggregates_reference
from attviz.kernels.triton import logsumexp

pytestmark = [pytest.mark.interpreter, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _through_triton(monkeypatch, small_blocks):
    small_blocks(BLOCK_Q=16)
    monkeypatch.setattr(operator, "_logsumexp_op", logsumexp.launch)


def assert_rows(query, key, expected, logsumexp, tolerance=1e-5, **options):
    rows = summary_from_logsumexp(query, key, logsumexp, **options)
    torch.testing.assert_close(rows.diagonal.double(), expected.diagonal, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(rows.first_token.double(), expected.first_token, rtol=tolerance, atol=tolerance)
    aggregates = head_aggregates_reference(rows.diagonal)
    torch.testing.assert_close(rows.aggregates.double(), aggregates, rtol=1e-5, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(diagonal_from_logsumexp(query, key, logsumexp, **options), rows.diagonal, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "num_kv_heads"), [(16, 4), (40, 2), (80, 1), (128, 2), (256, 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_dtype_head_dim_groups_and_strides(dtype, head_dim, num_kv_heads, transposed):
    shape_q, shape_k = (1, 4, 19, head_dim), (1, num_kv_heads, 23, head_dim)
    query, key = torch.randn(shape_q).to(dtype), torch.randn(shape_k).to(dtype)
    if transposed:  # [head_dim, batch, length, heads]: no stride is 1 but the heads'
        query, key = (x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) for x in (query, key))
    expected = summary_from_qk_reference(query, key)
    assert_rows(query, key, expected, expected.logsumexp.float())


@settings(max_examples=12, deadline=None)
@given(
    q_len=st.integers(1, 40),
    extra=st.integers(0, 5),
    num_heads=st.sampled_from([1, 3]),
    cap=st.sampled_from([0.0, 2.0]),
    sinks=st.booleans(),
    shape=st.sampled_from([None, "k", "qk", "h1k", "b1q1", "bhqk"]),
    is_bool=st.booleans(),
)
def test_any_shape_and_mix_of_options(q_len, extra, num_heads, cap, sinks, shape, is_bool):
    sizes = {"b": 2, "h": num_heads, "q": q_len, "k": q_len + extra, "1": 1}
    options = {"softcap": cap}
    if sinks:
        options["sinks"] = torch.randn(num_heads)
    if shape is not None:
        extents = [sizes[letter] for letter in shape]
        options["bias"] = torch.rand(extents) > 0.4 if is_bool else torch.randn(extents)
    query, key = torch.randn(2, num_heads, q_len, 16), torch.randn(2, num_heads, q_len + extra, 16)
    expected = summary_from_qk_reference(query, key, **options)
    assert_rows(query, key, expected, dense_logits(query, key, **options).logsumexp(-1).float(), **options)


@pytest.mark.parametrize("convention", [0.0, math.inf, -math.inf])
@pytest.mark.parametrize("how", ["bias", "row_mask", "row_mask of heads"])
def test_dead_rows_are_zero_under_every_convention(convention, how):
    query = torch.randn(2, 2, 19, 16)
    alive = torch.rand(2, 19) > 0.3
    options = {
        "bias": {"bias": torch.zeros(2, 1, 19, 1).masked_fill(~alive[:, None, :, None], -math.inf)},
        "row_mask": {"row_mask": alive},
        "row_mask of heads": {"row_mask": alive[:, None].expand(2, 2, 19)},
    }[how]
    full = summary_from_qk_reference(query, query)
    logsumexp = full.logsumexp.float().masked_fill(~alive[:, None], convention)
    expected = full._replace(diagonal=full.diagonal * alive[:, None], first_token=full.first_token * alive[:, None])
    assert_rows(query, query, expected, logsumexp, **options)


@pytest.mark.parametrize("layout", ["padded", "trailing one", "permuted"])
def test_layouts_of_the_logsumexp(layout):
    query = torch.randn(2, 3, 19, 16)
    expected = summary_from_qk_reference(query, query)
    rows = expected.logsumexp.float()
    layouts = {
        "padded": torch.nn.functional.pad(rows, (0, 13), value=math.inf),
        "trailing one": rows[..., None],
        "permuted": rows.transpose(1, 2).contiguous().transpose(1, 2),
    }
    assert_rows(query, query, expected, layouts[layout])


def test_rows_masked_with_finfo_min_are_uniform():
    lowest = torch.finfo(torch.float32).min
    query, bias = torch.randn(1, 2, 20, 16), torch.zeros(20, 20)
    bias[4] = lowest
    logsumexp = dense_logits(query, query, bias=bias).logsumexp(-1).float()
    actual = diagonal_from_logsumexp(query, query, logsumexp, bias=bias)
    torch.testing.assert_close(actual[:, :, 4], torch.full((1, 2), 0.05))


def test_large_logits_stay_within_one_and_nan_stays_in_its_row():
    query = torch.randn(1, 1, 20, 64) * 30
    expected = summary_from_qk_reference(query, query, scale=1.0)
    logsumexp = expected.logsumexp.float()
    assert logsumexp.max() > 10000
    actual = diagonal_from_logsumexp(query, query, logsumexp, scale=1.0)
    assert actual.max() <= 1.0
    torch.testing.assert_close(actual.double(), expected.diagonal, rtol=2e-2, atol=1e-6)  # eps * |logsumexp|
    query[0, 0, 7, 5] = math.nan
    assert diagonal_from_logsumexp(query, query, logsumexp).isnan().nonzero().tolist() == [[0, 0, 7]]


def test_offsets_past_2_to_the_31_are_reached():
    length = 66000
    query = torch.empty(length, length, dtype=torch.float16)[None, None, -24:, :16]  # the storage, 8.7 GB, is never touched elsewhere
    assert query.storage_offset() > 2**31
    key = query.as_strided((1, 1, length, 16), (0, 0, length, 1), 0)  # its last rows are those of the query, 4.3e9 elements away
    query.copy_(torch.randn(1, 1, 24, 16))
    diagonal = logsumexp.launch(query, key, torch.zeros(1, 1, 24), -0.01, None, None, length - 24, 0.0, *(None,) * 4, 0, -1, -1, False)[0]
    torch.testing.assert_close(diagonal, torch.exp(-0.01 * query.float().square().sum(-1)))


@settings(max_examples=15, deadline=None)
@given(
    num_kv_heads=st.sampled_from([1, 2]),
    extra=st.integers(0, 5),
    kind=st.sampled_from(["shift", "all heads", "each head"]),
    window=st.sampled_from([(-1, -1), (-1, 0), (1, 2)]),
    cap=st.sampled_from([0.0, 2.0]),
    biased=st.booleans(),
)
def test_any_index(num_kv_heads, extra, kind, window, cap, biased):
    query, key = torch.randn(2, 4, 19, 16), torch.randn(2, num_kv_heads, 19 + extra, 16)
    options = {"softcap": cap, "bias": torch.randn(4, 1, 19 + extra) if biased else None}
    logsumexp = dense_logits(query, key, **options).logsumexp(-1).float()
    shapes = {"all heads": (2, 19), "each head": (2, 4, 19)}
    index = -3 if kind == "shift" else torch.randint(-1, 20 + extra, shapes[kind])
    options |= {"index": index, "window_size": window}
    actual = diagonal_from_logsumexp(query, key, logsumexp, **options)
    expected = diagonal_from_logsumexp_reference(query, key, logsumexp, **options)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("of_texts", [False, True])
@pytest.mark.parametrize("edges", [[0, 25], [0, 7, 7, 20, 25], [0, 0, 1, 17, 18, 20, 25]])
def test_packed_texts(edges, of_texts, dtype):
    bounds = {"cu_seqlens_q": torch.tensor(edges, dtype=dtype), "cu_seqlens_k": torch.tensor(edges, dtype=dtype) * 2}
    query, key = torch.randn(1, 4, 27, 16), torch.randn(1, 2, 53, 16)
    logsumexp = torch.rand(len(edges) - 1, 4, 27) + 4
    rows = torch.full((1, 4, 27), 0.0)
    for text, (start, end) in enumerate(itertools.pairwise(edges)):
        rows[0, :, start:end] = logsumexp[text, :, : end - start]
    for index in (None, -2):
        actual = diagonal_from_logsumexp(query, key, logsumexp if of_texts else rows, index=index, **bounds)
        expected = diagonal_from_logsumexp_reference(query, key, rows, index=index, **bounds)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_heads_past_2_to_the_31_are_reached_by_the_summary():
    length = 66000
    storage = torch.empty(length, length, dtype=torch.float16)  # 8.7 GB that are never touched but at two places
    query = storage.as_strided((1, 2, 3, 16), (0, 65000 * length, length, 1), 0)
    query.copy_(torch.randn(1, 2, 3, 16))
    rows = logsumexp.launch(query, query, torch.zeros(1, 2, 3), -0.01, None, None, 0, 0.0, *(None,) * 4, 0, -1, -1, True)[0]
    torch.testing.assert_close(rows, torch.exp(-0.01 * query.float().square().sum(-1)))
