"""The Triton twin of diagonal_from_weights in the CPU interpreter."""

import math

import pytest
import torch

from attviz.kernels import diagonal_from_weights, summary_from_weights
from attviz.kernels import weights as operator
from attviz.kernels.references import diagonal_from_weights_reference
from attviz.kernels.summary import head_aggregates_reference
from attviz.kernels.triton import weights

pytestmark = [pytest.mark.interpreter, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


@pytest.fixture(autouse=True)
def _through_triton(monkeypatch):
    monkeypatch.setattr(operator, "_weights_op", weights.launch)
    monkeypatch.setattr(weights, "TILE", 64)  # several blocks of rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_heads", [1, 2, 5])
@pytest.mark.parametrize(("q_len", "kv_len", "kv_offset"), [(1, 1, None), (19, 19, None), (9, 14, None), (9, 10, 0)])
def test_read_and_aggregates(dtype, num_heads, q_len, kv_len, kv_offset):
    matrix = torch.randn(2, num_heads, q_len, kv_len).softmax(-1).to(dtype)
    for source in (matrix, matrix.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)):
        rows = summary_from_weights(source, kv_offset=kv_offset)
        expected = diagonal_from_weights_reference(source, kv_offset=kv_offset)
        torch.testing.assert_close(rows.diagonal.double(), expected, rtol=0, atol=0)
        torch.testing.assert_close(rows.first_token, source[..., 0].float(), rtol=0, atol=0)
        aggregates = head_aggregates_reference(rows.diagonal)
        torch.testing.assert_close(rows.aggregates.double(), aggregates, rtol=1e-5, atol=1e-6, equal_nan=True)
        assert torch.equal(diagonal_from_weights(source, kv_offset=kv_offset), rows.diagonal)


def test_equal_values_count_once_in_the_entropy():
    matrix = torch.diag_embed(torch.tensor([0.5, 0.25, 0.5, 0.0]).view(1, 4, 1))
    rows = summary_from_weights(matrix)
    expected = -(2 * 0.5 * math.log(0.5) + 0.25 * math.log(0.25)) / 3
    torch.testing.assert_close(rows.aggregates[4], torch.tensor([[expected]]))


def test_values_are_clamped_and_nan_stays():
    matrix = torch.diag_embed(torch.tensor([[[1.5, -0.5, math.nan]]]))
    first, second, third = diagonal_from_weights(matrix).flatten().tolist()
    assert (first, second) == (1.0, 0.0)
    assert math.isnan(third)


def test_offsets_past_2_to_the_31_are_reached():
    length = 66000
    matrix = torch.empty(length, length, dtype=torch.float16)  # never touched but at the last rows
    matrix.diagonal()[-8:] = torch.linspace(0, 1, 8)
    tail = matrix[None, None, -8:]
    actual = weights.launch(tail, length - 8, False)[0]
    torch.testing.assert_close(actual.flatten(), torch.linspace(0, 1, 8).half().float(), rtol=0, atol=0)
