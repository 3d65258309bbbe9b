"""Many small calls in one launch, in the CPU interpreter, against each call by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.kernels.triton import small_calls
from tests.kernels.small_calls import made

pytestmark = pytest.mark.interpreter


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape_against_float64(data):
    calls = made(data)
    found = small_calls.launch(**calls.given)
    assert found.shape == (len(calls.expected), *calls.given["queries"][0].shape[:3])
    torch.testing.assert_close(found.double(), torch.stack(calls.expected), rtol=0, atol=calls.tolerance)
