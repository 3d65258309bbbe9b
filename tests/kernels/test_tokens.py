"""merge_by_token against Welford's recurrence, in any cut of the stream."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, DtypeError, ShapeError
from attviz.kernels.tokens import SEGMENT_CHUNK, TokenOrder, TokenState, merge_by_token, merge_by_token_reference


def assert_same(actual: TokenState, expected: TokenState, rtol: float = 1e-12) -> None:
    for have, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(have.double(), want.double(), rtol=rtol, atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 3),
    q_len=st.integers(0, 20),
    num_heads=st.integers(1, 5),
    vocab=st.integers(1, 12),
    layers=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.float64]),
)
def test_merge_by_token_agrees_with_welford(batch, q_len, num_heads, vocab, layers, dtype):
    token_ids = torch.randint(-2, vocab, (batch, q_len))
    state = expected = TokenState.empty(vocab, num_heads)
    order = TokenOrder.of(token_ids)
    for _ in range(layers):
        diagonal = torch.rand(batch, num_heads, q_len, dtype=torch.float64).to(dtype)
        if dtype == torch.float64:
            diagonal = diagonal.float().double()  # the extremes are kept in float32
        expected = merge_by_token_reference(expected, token_ids, diagonal)
        merge_by_token(state, order, diagonal)
    assert_same(state, expected)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=4))
def test_any_cut_of_the_stream_gives_the_same_state(cuts):
    token_ids, diagonal = torch.randint(0, 5, (1, 40)), torch.rand(1, 2, 40)
    whole, pieces = TokenState.empty(5, 2), TokenState.empty(5, 2)
    merge_by_token(whole, token_ids, diagonal)
    edges = [0, *sorted(set(cuts)), 40]
    for start, end in itertools.pairwise(edges):
        merge_by_token(pieces, token_ids[:, start:end], diagonal[..., start:end])
    assert_same(pieces, whole)


def test_small_deviations_of_a_long_stream_keep_their_standard_deviation():
    token_ids = torch.zeros(1, 20000, dtype=torch.long)
    values = 1e-4 + 1e-7 * torch.randn(50, 1, 1, 20000, dtype=torch.float64)
    values = values.float()
    state = TokenState.empty(1, 1)
    order = TokenOrder.of(token_ids)
    for diagonal in values:
        merge_by_token(state, order, diagonal)
    torch.testing.assert_close(state.mean[0, 0], values.double().mean(), rtol=1e-12, atol=0)
    std = torch.sqrt(state.m2[0, 0] / (state.count[0] - 1))
    torch.testing.assert_close(std, values.double().std(), rtol=1e-9, atol=0)


def test_masked_and_negative_ids_are_skipped():
    token_ids = torch.tensor([[1, 1, -100, 2]])
    order = TokenOrder.of(token_ids, torch.tensor([[True, False, True, True]]))
    state = TokenState.empty(3, 1)
    merge_by_token(state, order, torch.tensor([[[0.5, float("nan"), float("nan"), 0.25]]]))
    assert state.count.tolist() == [0.0, 1.0, 1.0]
    assert state.max.flatten().tolist() == [float("-inf"), 0.5, 0.25]
    assert state.min.flatten().tolist() == [float("inf"), 0.5, 0.25]


def test_the_plan_gives_every_piece_of_a_long_segment_its_own_slot():
    ids = torch.cat((torch.full((2 * SEGMENT_CHUNK + 1,), 7), torch.tensor([3, 3]), torch.full((SEGMENT_CHUNK + 1,), 9)))
    sorted_ids, places, starts, ends, slots = TokenOrder.of(ids[None]).plan
    assert torch.equal(ids[places], sorted_ids)
    pieces = [i for i in range(len(ids)) if (i - starts[i]) % SEGMENT_CHUNK == 0 and ends[i] - starts[i] > SEGMENT_CHUNK]
    assert [int(slots[i]) for i in pieces] == [0, 1, 2, 3, 4]
    assert len(pieces) <= 2 * len(ids) // SEGMENT_CHUNK


def test_merge_by_token_takes_gradients_of_nobody():
    state = TokenState.empty(2, 1)
    merge_by_token(state, torch.zeros(1, 3, dtype=torch.long), torch.rand(1, 1, 3, requires_grad=True))
    assert not any(tensor.requires_grad for tensor in state)


def test_merge_by_token_errors_name_the_sizes():
    state = TokenState.empty(4, 2)
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ShapeError, match=r"batch and q_len of the ids \(1, 3\), got \(1, 2, 4\)"):
        merge_by_token(state, ids, torch.rand(1, 2, 4))
    with pytest.raises(ShapeError, match=r"\[vocab, num_heads\] = \(4, 2\), the diagonal has num_heads=3"):
        merge_by_token(state, ids, torch.rand(1, 3, 3))
    with pytest.raises(ArgumentError, match="token id 4 does not fit a state of vocab=4"):
        merge_by_token(state, ids + 4, torch.rand(1, 2, 3))
    with pytest.raises(ShapeError, match=r"must be \[batch, q_len\], got \(3,\)"):
        merge_by_token(state, ids[0], torch.rand(1, 2, 3))
    with pytest.raises(DtypeError, match=r"must be integers, got torch\.float32"):
        merge_by_token(state, ids.float(), torch.rand(1, 2, 3))
    with pytest.raises(DtypeError, match=r"diagonal must be float16, .* got torch\.int64"):
        merge_by_token(state, ids, torch.zeros(1, 2, 3, dtype=torch.long))


def test_merge_by_token_passes_opcheck_and_compiles():
    token_ids, diagonal = torch.tensor([[0, 1, 1]]), torch.rand(1, 2, 3)
    order = TokenOrder.of(token_ids)
    torch.library.opcheck(torch.ops.attviz.merge_by_token.default, (*TokenState.empty(2, 2), diagonal, order.plan))

    def step(state: TokenState, ids: torch.Tensor, values: torch.Tensor) -> None:
        merge_by_token(state, ids, values * 0.5)

    expected, actual = TokenState.empty(2, 2), TokenState.empty(2, 2)
    step(expected, token_ids, diagonal)
    torch.compile(step, fullgraph=True, backend="aot_eager")(actual, token_ids, diagonal)
    assert_same(actual, expected)
