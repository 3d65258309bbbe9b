"""diagonal_from_logsumexp against dense float64 softmax, and against what torch's own CPU flash kernel returns."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, DtypeError, ShapeError
from attviz.kernels import diagonal_from_logsumexp, summary_from_logsumexp
from attviz.kernels.references import dense_logits, diagonal_from_logsumexp_reference, summary_from_qk_reference
from attviz.kernels.summary import head_aggregates_reference

HALF = (torch.float16, torch.bfloat16)


@st.composite
def attention(draw):
    batch, num_kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    q_len, extra, head_dim = draw(st.integers(1, 12)), draw(st.integers(0, 3)), draw(st.sampled_from([1, 8, 40]))
    heads, kv_len = num_kv_heads * group, q_len + extra
    dtype = draw(st.sampled_from([torch.float64, torch.float32, *HALF]))
    query = torch.randn(batch, q_len, heads, head_dim).to(dtype).transpose(1, 2)
    key = torch.randn(batch, num_kv_heads, kv_len, head_dim).to(dtype)
    shape = draw(
        st.sampled_from([None, (kv_len,), (q_len, kv_len), (heads, 1, kv_len), (batch, 1, q_len, 1), (batch, heads, q_len, kv_len)])
    )
    options = {"scale": draw(st.sampled_from([None, 0.7])), "softcap": draw(st.sampled_from([0.0, 3.0]))}
    if shape is not None:
        options["bias"] = torch.randn(shape) if draw(st.booleans()) else torch.rand(shape) > 0.3
    if draw(st.booleans()):
        options["sinks"] = torch.randn(heads)
    return query, key, options


@settings(max_examples=80, deadline=None)
@given(attention(), st.booleans())
def test_diagonal_and_summary_agree_with_dense_softmax(case, sinks_inside):
    query, key, options = case
    expected = summary_from_qk_reference(query, key, **options)
    given_options = dict(options)
    if sinks_inside:
        logsumexp, _ = expected.logsumexp, given_options.pop("sinks", None)
    else:
        logsumexp = dense_logits(query, key, **options).logsumexp(-1)
    rows = summary_from_logsumexp(query, key, logsumexp, **given_options)
    torch.testing.assert_close(rows.diagonal.double(), expected.diagonal, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rows.first_token.double(), expected.first_token, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rows.aggregates.double(), head_aggregates_reference(rows.diagonal), rtol=1e-5, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(diagonal_from_logsumexp(query, key, logsumexp, **given_options), rows.diagonal, rtol=0, atol=0)


def test_the_oracle_is_the_softmax():
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    expected = summary_from_qk_reference(query, key, softcap=2.0, sinks=torch.ones(4))
    logsumexp = dense_logits(query, key, softcap=2.0).logsumexp(-1)
    actual = diagonal_from_logsumexp_reference(query, key, logsumexp, softcap=2.0, sinks=torch.ones(4))
    torch.testing.assert_close(actual, expected.diagonal)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_agrees_with_what_the_cpu_flash_kernel_returns(dtype):
    query, key, value = (torch.randn(2, 9, 4, 16).to(dtype).transpose(1, 2) for _ in range(3))
    _, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, is_causal=True)
    assert not logsumexp.is_contiguous()
    expected = summary_from_qk_reference(query, key, is_causal=True).diagonal
    tolerance = 1e-6 if dtype == torch.float32 else 1e-3  # the kernel's own log-sum-exp is off by 6e-5 in half types
    torch.testing.assert_close(diagonal_from_logsumexp(query, key, logsumexp).double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", ["padded", "trailing one", "packed", "packed, heads last"])
def test_every_backend_layout_of_the_logsumexp_is_read(layout):
    query = torch.randn(1, 3, 5, 8)
    rows = dense_logits(query, query).logsumexp(-1).float()
    layouts = {
        "padded": torch.nn.functional.pad(rows, (0, 27), value=math.inf),
        "trailing one": rows[..., None],
        "packed": rows[0],
        "packed, heads last": rows[0].mT.contiguous(),
    }
    expected = diagonal_from_logsumexp(query, query, rows)
    assert torch.equal(diagonal_from_logsumexp(query, query, layouts[layout]), expected)


@pytest.mark.parametrize("convention", [0.0, math.inf, -math.inf])
def test_dead_rows_are_zero_under_every_convention(convention):
    query = torch.randn(2, 2, 3, 8)
    alive = torch.tensor([[True, False, True], [False, True, True]])
    bias = torch.zeros(2, 1, 3, 1).masked_fill(~alive[:, None, :, None], -math.inf)
    logsumexp = dense_logits(query, query).logsumexp(-1).float().masked_fill(~alive[:, None], convention)
    expected = summary_from_qk_reference(query, query).diagonal.float() * alive[:, None]
    for options in ({"bias": bias}, {"row_mask": alive}, {"row_mask": alive[:, None].expand(2, 2, 3)}):
        torch.testing.assert_close(diagonal_from_logsumexp(query, query, logsumexp, **options), expected)


def test_large_logits_stay_within_one():
    query = torch.randn(1, 2, 64, 64) * 30
    logsumexp = dense_logits(query, query, scale=1.0).logsumexp(-1).float()
    actual = diagonal_from_logsumexp(query, query, logsumexp, scale=1.0)
    assert actual.max() <= 1.0
    assert logsumexp.max() > 10000
    tolerance = float(torch.finfo(torch.float32).eps * logsumexp.max() * 4)
    expected = summary_from_qk_reference(query, query, scale=1.0).diagonal
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 2, 3, 8), (2, 2, 0, 8), (1, 2, 3, 0)])
def test_empty_tensors_are_handled(shape):
    query = torch.randn(shape)
    rows = summary_from_logsumexp(query, query, torch.zeros(shape[:3]))
    assert torch.equal(rows.diagonal, torch.ones(shape[:3]))  # exp(0 - 0) where there is anything
    assert rows.first_token.shape == shape[:3]
    assert rows.aggregates.shape == (5, shape[0], shape[2])


def test_no_graph_comes_out():
    query = torch.randn(1, 1, 3, 8, requires_grad=True)
    assert not diagonal_from_logsumexp(query, query, torch.zeros(1, 1, 3)).requires_grad


def test_errors_name_the_sizes():
    query, key, logsumexp = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8), torch.zeros(2, 4, 5)
    with pytest.raises(ShapeError, match="got kv_offset=3"):
        diagonal_from_logsumexp(query, key, logsumexp, kv_offset=3)
    with pytest.raises(ShapeError, match=r"a log-sum-exp of unknown layout, shape \(2, 5, 4\)"):
        diagonal_from_logsumexp(query, key, logsumexp.mT)
    with pytest.raises(ShapeError, match=r"row_mask must be of shape \(2, 5\) or \(2, 4, 5\), got \(5,\)"):
        diagonal_from_logsumexp(query, key, logsumexp, row_mask=torch.ones(5, dtype=torch.bool))
    with pytest.raises(DtypeError, match=r"logsumexp must be float16(.*)got torch\.int64"):
        diagonal_from_logsumexp(query, key, logsumexp.long())
    with pytest.raises(DtypeError, match="key is on meta and the first on cpu"):
        diagonal_from_logsumexp(query, key.to("meta"), logsumexp)
    with pytest.raises(ArgumentError, match=r"softcap must be 0 \(none\) or positive, got -1"):
        diagonal_from_logsumexp(query, key, logsumexp, softcap=-1.0)


@pytest.mark.parametrize("extras", [False, True])
def test_operator_passes_opcheck(extras):
    query, key, mask = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8), torch.ones(2, 1, 5, dtype=torch.bool)
    arguments = (query, key, torch.zeros(2, 4, 5), 0.3, torch.randn(5, 7), mask, 2, 1.5, torch.zeros(4), *(None,) * 3, 0, -1, -1, extras)
    torch.library.opcheck(torch.ops.attviz.diagonal_from_logsumexp.default, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break_and_exports(dynamic):
    class Reader(torch.nn.Module):
        def forward(self, query, logsumexp):
            return summary_from_logsumexp(query, query, logsumexp).aggregates, diagonal_from_logsumexp(query, query, logsumexp)

    compiled = torch.compile(Reader(), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for q_len in (6, 5):
        inputs = torch.randn(1, 2, q_len, 8, requires_grad=True), torch.zeros(1, 2, q_len)
        expected = Reader()(*inputs)
        for have, want, exported in zip(compiled(*inputs), expected, torch.export.export(Reader(), inputs).module()(*inputs), strict=True):
            assert not have.requires_grad
            torch.testing.assert_close(have, want)
            torch.testing.assert_close(exported, want)
