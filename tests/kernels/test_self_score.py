"""The shared arithmetic against dense float64 attention, for every layout and every convention of a dead row."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ShapeError
from attviz.kernels import diagonal_of_bias, rows_of_logsumexp, self_scores, weights_from_scores


def dense_scores(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return query.double() @ key.double().repeat_interleave(query.shape[1] // key.shape[1], 1).mT


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 3),
    num_kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    q_len=st.integers(1, 17),
    extra=st.integers(0, 5),
    head_dim=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    transposed=st.booleans(),
)
def test_self_scores_agrees_with_dense_float64(batch, num_kv_heads, group, q_len, extra, head_dim, dtype, transposed):
    def make(heads: int, length: int) -> torch.Tensor:
        if transposed:
            return torch.randn(batch, length, heads, head_dim).to(dtype).transpose(1, 2)
        return torch.randn(batch, heads, length, head_dim).to(dtype)

    query, key = make(num_kv_heads * group, q_len), make(num_kv_heads, q_len + extra)
    actual = self_scores(query, key, kv_offset=extra)
    expected = dense_scores(query, key).diagonal(extra, dim1=-2, dim2=-1)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["none", "bf16"])
@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("group", [1, 3])
def test_large_self_scores_agree_with_dense_float64(group, transposed, extra, precision, request):
    """Above the size from which matrix products serve; not where the user lets them round to bfloat16."""
    request.addfinalizer(lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "none"))
    torch.backends.mkldnn.matmul.fp32_precision = precision

    def make(heads: int, length: int) -> torch.Tensor:
        if transposed:
            return torch.randn(2, length, heads, 64).transpose(1, 2)
        return torch.randn(2, heads, length, 64)

    query, key = make(2 * group, 601), make(2, 601 + extra)
    assert query.numel() > 1 << 17
    expected = (query.double().unflatten(1, (2, group)) * key[:, :, None, extra:].double()).sum(-1).flatten(1, 2)
    torch.testing.assert_close(self_scores(query, key, kv_offset=extra).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_kv_heads", [12, 3])
def test_self_scores_in_chunks_equals_one_product(dtype, num_kv_heads):
    query, key = torch.randn(1, 12, 1500, 64).to(dtype), torch.randn(1, num_kv_heads, 1500, 64).to(dtype)
    assert query.numel() > 1 << 20  # several chunks, the last one ragged
    repeated = key.float().repeat_interleave(12 // num_kv_heads, 1)
    torch.testing.assert_close(self_scores(query, key), torch.linalg.vecdot(query.float(), repeated))


@settings(max_examples=40, deadline=None)
@given(
    q_len=st.integers(1, 9),
    extra=st.integers(0, 4),
    scale=st.floats(0.01, 30.0),
    softcap=st.sampled_from([0.0, 5.0]),
    with_bias=st.booleans(),
    with_sinks=st.booleans(),
)
def test_weights_from_scores_agrees_with_softmax(q_len, extra, scale, softcap, with_bias, with_sinks):
    query, key = torch.randn(2, 3, q_len, 8, dtype=torch.float64), torch.randn(2, 3, q_len + extra, 8, dtype=torch.float64)
    bias = torch.randn(2, 1, q_len, q_len + extra, dtype=torch.float64) if with_bias else None
    sinks = torch.randn(3, dtype=torch.float64) if with_sinks else None
    logits = dense_scores(query, key) * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    if bias is not None:
        logits = logits + bias
    logsumexp = logits.logsumexp(-1)
    denominator = logsumexp if sinks is None else torch.logaddexp(logsumexp, sinks[:, None])
    expected = torch.exp(logits.diagonal(extra, dim1=-2, dim2=-1) - denominator)
    diagonal_bias = None if bias is None else diagonal_of_bias(bias, q_len, extra)
    scores = self_scores(query, key, extra)
    actual = weights_from_scores(scores, logsumexp, scale, diagonal_bias, kv_len=q_len + extra, softcap=softcap, sinks=sinks)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dead", [0.0, math.inf, -math.inf])
def test_a_row_that_sees_nothing_weighs_zero_under_every_convention(dead):
    scores, logsumexp = torch.randn(1, 1, 3), torch.full((1, 1, 3), dead)
    masked = torch.full((1, 1, 3), -math.inf)
    assert weights_from_scores(scores, logsumexp, 1.0, masked, kv_len=3).tolist() == [[[0.0, 0.0, 0.0]]]
    unseen = torch.zeros(1, 1, 3, dtype=torch.bool)
    assert weights_from_scores(scores, logsumexp, 1.0, unseen, kv_len=3).tolist() == [[[0.0, 0.0, 0.0]]]
    assert weights_from_scores(scores, logsumexp, 1.0, row_mask=unseen, kv_len=3).tolist() == [[[0.0, 0.0, 0.0]]]


def test_a_row_masked_with_finfo_min_is_uniform():
    lowest = torch.finfo(torch.float32).min
    logits = torch.randn(1, 1, 4, 4) + lowest
    bias = torch.full((1, 1, 1, 4), lowest)
    actual = weights_from_scores(torch.randn(1, 1, 4), logits.logsumexp(-1), 1.0, diagonal_of_bias(bias, 4), kv_len=4)
    torch.testing.assert_close(actual, logits.softmax(-1).diagonal(dim1=-2, dim2=-1))
    assert actual.tolist() == [[[0.25] * 4]]


def test_a_seen_row_with_its_own_key_masked_weighs_zero():
    for masked in (-math.inf, torch.finfo(torch.float32).min):
        bias = torch.zeros(3, 3).fill_diagonal_(masked)
        logsumexp = (torch.zeros(3, 3) + bias).logsumexp(-1)[None, None]
        assert weights_from_scores(torch.zeros(1, 1, 3), logsumexp, 1.0, diagonal_of_bias(bias, 3), kv_len=3).tolist() == [[[0.0] * 3]]


def test_rounding_never_exceeds_one_and_nan_stays_nan():
    scores = torch.tensor([[[20000.0, math.nan]]])
    logsumexp = torch.tensor([[[19999.5, 1.0]]])
    first, second = weights_from_scores(scores, logsumexp, 1.0, kv_len=2).flatten().tolist()
    assert first == 1.0
    assert math.isnan(second)


def test_rows_of_logsumexp_reads_every_backend_layout():
    rows = torch.randn(2, 3, 5)
    padded = torch.nn.functional.pad(rows, (0, 27), value=math.inf)
    permuted = rows.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    for layout in (rows, padded, rows[..., None], permuted):
        assert torch.equal(rows_of_logsumexp(layout, 2, 3, 5), rows)
    for packed in (rows[0], rows[0].mT.contiguous()):
        assert torch.equal(rows_of_logsumexp(packed, 1, 3, 5), rows[:1])


def test_rows_of_logsumexp_names_an_unknown_layout():
    with pytest.raises(ShapeError, match=r"shape \(2, 3, 0\) for batch=2 num_heads=3 q_len=5(.|\n)*was not asked to return it"):
        rows_of_logsumexp(torch.zeros(2, 3, 0), 2, 3, 5)


@pytest.mark.parametrize(
    "shape", [(9,), (1,), (6, 9), (1, 9), (6, 1), (1, 1), (3, 6, 9), (1, 6, 9), (2, 1, 6, 9), (2, 3, 1, 9), (1, 1, 1, 1)]
)
@pytest.mark.parametrize("kind", ["float", "bool"])
def test_diagonal_of_bias_is_a_view_of_the_broadcast_diagonal(shape, kind):
    bias = torch.randn(shape) if kind == "float" else torch.rand(shape) > 0.5
    actual = diagonal_of_bias(bias, 6, 2)
    expected = bias.expand(2, 3, 6, 9).diagonal(2, dim1=-2, dim2=-1)[..., :6]
    assert torch.equal(actual.expand(2, 3, 6), expected)
    assert actual.untyped_storage().data_ptr() == bias.untyped_storage().data_ptr()


def test_diagonal_of_bias_refuses_a_mask_that_does_not_reach():
    with pytest.raises(ShapeError, match="q_len=6 kv_offset=4"):
        diagonal_of_bias(torch.zeros(6, 9), 6, 4)
    with pytest.raises(ShapeError, match="1 to 4 dimensions, got 5"):
        diagonal_of_bias(torch.zeros(1, 1, 1, 6, 6), 6)
