"""Many small calls at once in torch, against each call by itself in float64."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.kernels import small_calls
from tests.kernels.small_calls import made


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_shape_against_float64(data):
    calls = made(data)
    for way in (small_calls._in_torch, small_calls._calls_op):
        found = way(*[calls.given[name] for name in ("queries", "keys", "logsumexps", "biases", "scale", "offsets", "past", "packed")])
        torch.testing.assert_close(found.double(), torch.stack(calls.expected), rtol=0, atol=calls.tolerance)


@settings(max_examples=3, deadline=None)
@given(st.data())
def test_the_operator_keeps_its_promises(data):
    calls = made(data).given
    names = ("queries", "keys", "logsumexps", "biases", "scale", "offsets", "past", "packed")
    torch.library.opcheck(small_calls._calls_op, tuple(calls[name] for name in names))
