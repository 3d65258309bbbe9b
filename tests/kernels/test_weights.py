"""diagonal_from_weights against an element-by-element read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import DtypeError, ShapeError
from attviz.kernels import diagonal_from_weights, summary_from_weights
from attviz.kernels.references import diagonal_from_weights_reference
from attviz.kernels.summary import head_aggregates_reference


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 3),
    num_heads=st.integers(1, 5),
    q_len=st.integers(0, 9),
    extra=st.integers(0, 4),
    from_start=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    transposed=st.booleans(),
)
def test_summary_agrees_with_an_elementwise_read(batch, num_heads, q_len, extra, from_start, dtype, transposed):
    weights = torch.randn(batch, num_heads, q_len, q_len + extra).softmax(-1).to(dtype)
    if transposed:
        weights = weights.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    kv_offset = 0 if from_start else None
    rows = summary_from_weights(weights, kv_offset=kv_offset)
    assert rows.diagonal.dtype == torch.float32
    torch.testing.assert_close(rows.diagonal.double(), diagonal_from_weights_reference(weights, kv_offset=kv_offset), rtol=1e-7, atol=0)
    if q_len:
        torch.testing.assert_close(rows.first_token, weights[..., 0].float(), rtol=0, atol=0)
    torch.testing.assert_close(rows.aggregates.double(), head_aggregates_reference(rows.diagonal), rtol=1e-5, atol=1e-6, equal_nan=True)
    assert torch.equal(diagonal_from_weights(weights, kv_offset=kv_offset), rows.diagonal)


def test_values_are_clamped_and_nan_stays():
    weights = torch.tensor([[[[1.5, 0.0, 0.0], [0.0, -0.5, 0.0], [0.0, 0.0, float("nan")]]]])
    first, second, third = diagonal_from_weights(weights).flatten().tolist()
    assert (first, second) == (1.0, 0.0)
    assert third != third


def test_result_is_not_a_view_and_has_no_graph():
    weights = torch.rand(1, 1, 3, 3, requires_grad=True)
    diagonal = diagonal_from_weights(weights)
    assert diagonal.untyped_storage().data_ptr() != weights.untyped_storage().data_ptr()
    assert not diagonal.requires_grad


def test_errors_name_the_sizes():
    with pytest.raises(ShapeError, match=r"must be \[batch, num_heads, q_len, kv_len\], got \(3, 3\)"):
        diagonal_from_weights(torch.zeros(3, 3))
    with pytest.raises(ShapeError, match="got kv_offset=-1 with q_len=4 kv_len=3"):
        diagonal_from_weights(torch.zeros(1, 1, 4, 3))
    with pytest.raises(DtypeError, match=r"weights must be float16(.*)got torch\.int32"):
        diagonal_from_weights(torch.zeros(1, 1, 3, 3, dtype=torch.int32))


@pytest.mark.parametrize("extras", [False, True])
def test_operator_passes_opcheck_and_compiles(extras):
    weights = torch.rand(2, 3, 4, 6)
    torch.library.opcheck(torch.ops.attviz.diagonal_from_weights.default, (weights, 2, extras))
    compiled = torch.compile(summary_from_weights, fullgraph=True, backend="aot_eager")
    for have, want in zip(compiled(weights)[:3], summary_from_weights(weights)[:3], strict=True):
        torch.testing.assert_close(have, want)
