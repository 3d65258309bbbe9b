"""Many small calls in one launch, in the CPU interpreter, against each call by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.kernels.references import dense_logits, diagonal_from_logsumexp_reference
from attviz.kernels.triton import small_calls
from tests.kernels.far import STRIDES, far
from tests.kernels.small_calls import made

pytestmark = pytest.mark.interpreter


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape_against_float64(data):
    calls = made(data)
    found = small_calls.launch(**calls.given)
    assert found.shape == (len(calls.expected), *calls.given["queries"][0].shape[:3])
    torch.testing.assert_close(found.double(), torch.stack(calls.expected), rtol=0, atol=calls.tolerance)


@pytest.mark.parametrize("kind", STRIDES)
def test_offsets_past_2_to_the_31_are_reached(kind):
    query, key = far(kind), far(kind)
    lse = dense_logits(query, key, scale=0.5).logsumexp(-1).float()
    found = small_calls.launch([query], [key], [lse], [], 0.5, [0], None, False)
    expected = diagonal_from_logsumexp_reference(query, key, lse, scale=0.5)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-6)
