"""diagonal_from_qk and summary_from_qk against dense float64 attention."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, DtypeError, ShapeError
from attviz.kernels import blocked_softmax
from attviz.kernels.qk import diagonal_from_qk, summary_from_qk
from attviz.kernels.references import summary_from_qk_reference

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-5}  # half inputs are exact float32 numbers


def assert_summary(query, key, rtol=1e-5, **options):
    actual, expected = summary_from_qk(query, key, **options), summary_from_qk_reference(query, key, **options)
    for name in ("diagonal", "first_token", "logsumexp", "row_entropy", "row_max_logit"):
        have, want = getattr(actual, name), getattr(expected, name)
        assert have.dtype == torch.float32
        torch.testing.assert_close(have.double(), want, rtol=rtol, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(diagonal_from_qk(query, key, **options), actual.diagonal, rtol=0, atol=0)


@st.composite
def attention(draw):
    """Query, key and options of one attention; extents straddle the small blocks the test sets."""
    batch, num_kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    q_len, extra, head_dim = draw(st.integers(1, 40)), draw(st.integers(0, 9)), draw(st.sampled_from([1, 8, 33]))
    kv_len, heads = q_len + extra, num_kv_heads * group
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    query, key = (
        torch.randn(batch, q_len, heads, head_dim).to(dtype).transpose(1, 2),
        torch.randn(batch, num_kv_heads, kv_len, head_dim).to(dtype),
    )
    options = {
        "is_causal": draw(st.booleans()),
        "causal_alignment": draw(st.sampled_from(["bottom_right", "top_left"])),
        "window_size": draw(st.sampled_from([(-1, -1), (3, 0), (0, 2), (5, -1), (-1, 4)])),
        "softcap": draw(st.sampled_from([0.0, 2.0])),
        "kv_offset": draw(st.sampled_from([None, 0, extra])),
        "scale": draw(st.sampled_from([None, 1.0])),
    }
    if draw(st.booleans()):
        options["sinks"] = torch.randn(heads)
    if draw(st.booleans()):
        options["alibi_slopes"] = torch.rand((heads,) if draw(st.booleans()) else (batch, heads))
    shape = draw(
        st.sampled_from([None, (kv_len,), (q_len, kv_len), (heads, 1, kv_len), (batch, 1, q_len, 1), (batch, heads, q_len, kv_len)])
    )
    if shape is not None:
        options["bias"] = torch.randn(shape) if draw(st.booleans()) else torch.rand(shape) > 0.3
    if draw(st.booleans()):
        options["key_mask"] = torch.rand(batch, kv_len) > 0.3
    return query, key, options


@settings(max_examples=120, deadline=None)
@given(attention())
def test_summary_from_qk_agrees_with_dense_float64(case):
    query, key, options = case
    with pytest.MonkeyPatch.context() as patch:  # several blocks each way, the last ones ragged
        patch.setattr(blocked_softmax, "_BLOCK_Q", 16)
        patch.setattr(blocked_softmax, "_TILE", 16 * 16 * query.shape[1])
        assert_summary(query, key, **options)


def test_summary_from_qk_agrees_at_the_real_block_size():
    query, key = torch.randn(1, 4, 300, 32), torch.randn(1, 2, 1500, 32)
    assert_summary(query, key, is_causal=True)


@pytest.mark.parametrize("is_causal", [False, True])
def test_packed_sequences_attend_within_themselves(is_causal):
    edges_q, edges_k = torch.tensor([0, 5, 5, 21], dtype=torch.int32), torch.tensor([0, 7, 9, 30], dtype=torch.int32)
    assert_summary(torch.randn(1, 4, 21, 16), torch.randn(1, 2, 30, 16), cu_seqlens_q=edges_q, cu_seqlens_k=edges_k, is_causal=is_causal)
    assert_summary(torch.randn(1, 2, 21, 16), torch.randn(1, 2, 21, 16), cu_seqlens_q=edges_q, is_causal=is_causal)


def test_entropy_is_exact_at_logits_near_a_thousand():
    query = torch.randn(1, 1, 50, 8, dtype=torch.float64)
    key = torch.randn(1, 1, 50, 8, dtype=torch.float64)
    query[..., 0], key[..., 0] = 40.0, 25.0  # every logit of a row is near 1000: the naive difference loses 2e-2
    expected = summary_from_qk_reference(query, key, scale=1.0)
    assert expected.row_max_logit.min() > 990
    actual = summary_from_qk(query, key, scale=1.0)
    torch.testing.assert_close(actual.row_entropy.double(), expected.row_entropy, rtol=1e-5, atol=1e-6)


def test_rows_masked_with_finfo_min_are_uniform():
    bias = torch.zeros(1, 1, 5, 5)
    bias[:, :, 3] = torch.finfo(torch.float32).min
    actual = summary_from_qk(torch.randn(1, 2, 5, 16), torch.randn(1, 2, 5, 16), bias=bias)
    torch.testing.assert_close(actual.diagonal[:, :, 3], torch.full((1, 2), 0.2))
    torch.testing.assert_close(actual.row_entropy[:, :, 3], torch.full((1, 2), math.log(5)))


def test_a_row_that_sees_nothing_is_zero_everywhere_but_in_its_logarithms():
    mask = torch.zeros(1, 4, dtype=torch.bool)
    rows = summary_from_qk(torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8), key_mask=mask)
    for field in (rows.diagonal, rows.first_token, rows.row_entropy):
        assert field.tolist() == [[[0.0] * 4]]
    for field in (rows.logsumexp, rows.row_max_logit):
        assert field.tolist() == [[[-math.inf] * 4]]


def test_nan_in_a_query_stays_in_its_row():
    query = torch.randn(1, 1, 4, 8)
    query[0, 0, 2, 3] = math.nan
    assert diagonal_from_qk(query, torch.randn(1, 1, 4, 8)).isnan().tolist() == [[[False, False, True, False]]]


@pytest.mark.parametrize("shape", [(0, 2, 3, 8), (2, 2, 0, 8), (1, 2, 3, 0)])
def test_empty_tensors_are_handled(shape):
    query = torch.randn(shape)
    expected = torch.full(shape[:3], 1 / 3)  # without dimensions every logit is 0
    torch.testing.assert_close(diagonal_from_qk(query, query), expected)


def test_memory_is_linear_in_the_length():
    query = torch.randn(1, 2, 4096, 8)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        diagonal_from_qk(query, query, is_causal=True)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest <= 4 << 20  # the matrix would be 128 MiB


def test_no_graph_comes_out():
    query = torch.randn(1, 1, 3, 8, requires_grad=True)
    assert not diagonal_from_qk(query, query).requires_grad
    assert not any(field.requires_grad for field in summary_from_qk(query, query) if field is not None)


def test_options_that_do_not_fit_are_named():
    query, key = torch.randn(2, 6, 4, 8), torch.randn(2, 4, 4, 8)
    with pytest.raises(
        ShapeError, match=r"must be a multiple of num_kv_heads, got 6 and 4\.(.|\n)*q_len=4 head_dim=8(.|\n)*x\.transpose\(1, 2\)"
    ):
        diagonal_from_qk(query, key)
    with pytest.raises(ShapeError, match="differ in batch or head_dim"):
        diagonal_from_qk(query, query[:1])
    with pytest.raises(ShapeError, match=r"four dimensions(.|\n)*transpose\(0, 1\)\[None\]"):
        diagonal_from_qk(query[0], key[0])
    with pytest.raises(DtypeError, match=r"query must be float16(.*)got torch\.int64"):
        diagonal_from_qk(query.long(), query)
    with pytest.raises(ShapeError, match="got kv_offset=-1"):
        diagonal_from_qk(query, query[:, :, :3])
    with pytest.raises(ShapeError, match=r"\(2, 6, 4, 4\), got \(3, 4\)"):
        diagonal_from_qk(query, query, bias=torch.zeros(3, 4))
    with pytest.raises(DtypeError, match=r"key_mask must be bool, True where kept, got torch\.float32"):
        diagonal_from_qk(query, query, key_mask=torch.ones(2, 4))
    with pytest.raises(ShapeError, match=r"key_mask must be of shape \(2, 4\), got \(2, 5\)"):
        diagonal_from_qk(query, query, key_mask=torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"sinks must hold one logit per head, \[num_heads\] = \(6,\), got \(5,\)"):
        diagonal_from_qk(query, query, sinks=torch.zeros(5))
    with pytest.raises(ShapeError, match=r"alibi_slopes must be \[num_heads\] or \[batch, num_heads\], got \(5,\)"):
        diagonal_from_qk(query, query, alibi_slopes=torch.zeros(5))
    with pytest.raises(ArgumentError, match="softcap must be 0"):
        diagonal_from_qk(query, query, softcap=-1.0)
    with pytest.raises(ArgumentError, match="'bottom_right' or 'top_left', got 'middle'"):
        diagonal_from_qk(query, query, causal_alignment="middle")


def test_packed_options_that_do_not_fit_are_named():
    query, edges = torch.randn(1, 2, 4, 8), torch.tensor([0, 4])
    with pytest.raises(ArgumentError, match="without cu_seqlens_q"):
        diagonal_from_qk(query, query, cu_seqlens_k=edges)
    with pytest.raises(ArgumentError, match="cannot be combined with cu_seqlens_q"):
        diagonal_from_qk(query, query, cu_seqlens_q=edges, bias=torch.zeros(4, 4))
    with pytest.raises(ShapeError, match="must come as batch 1"):
        diagonal_from_qk(query.expand(2, 2, 4, 8), query.expand(2, 2, 4, 8), cu_seqlens_q=edges)
    with pytest.raises(DtypeError, match="1-D int32 or int64"):
        diagonal_from_qk(query, query, cu_seqlens_q=edges.float())
    with pytest.raises(ShapeError, match="one bound more than there are texts; got 2 and 3"):
        diagonal_from_qk(query, query, cu_seqlens_q=edges, cu_seqlens_k=torch.tensor([0, 1, 4]))


def test_operator_passes_opcheck():
    query, key, mask = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8), torch.ones(2, 7, dtype=torch.bool)
    rules = (0.5, None, True, -1, 0, 0.0, torch.zeros(4), None, None, mask, None, None, 5, True)
    torch.library.opcheck(torch.ops.attviz.diagonal_from_qk.default, (query, key, *rules))
    packed = (0.5, None, True, -1, 0, 0.0, None, None, None, None, torch.tensor([0, 2, 5]), torch.tensor([0, 3, 7]), 5, False)
    torch.library.opcheck(torch.ops.attviz.diagonal_from_qk.default, (query[:1], key[:1], *packed))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic):
    key = torch.randn(1, 2, 9, 8)

    def step(query, key):
        return diagonal_from_qk(query, key, is_causal=True), summary_from_qk(query, key).row_entropy

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for length in (6, 5):
        query = torch.randn(1, 2, length, 8, requires_grad=True)
        for have, want in zip(compiled(query, key), step(query, key), strict=True):
            assert not have.requires_grad
            torch.testing.assert_close(have, want)


def test_exports():
    class Reader(torch.nn.Module):
        def forward(self, query, key):
            return diagonal_from_qk(query, key, is_causal=True)

    query, key = torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    program = torch.export.export(Reader(), (query, key))
    torch.testing.assert_close(program.module()(query, key), diagonal_from_qk(query, key, is_causal=True))
