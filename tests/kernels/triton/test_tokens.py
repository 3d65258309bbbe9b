"""The Triton twin of merge_by_token in the CPU interpreter, against Welford's recurrence."""

import pytest
import torch

from attviz.errors import ShapeError
from attviz.kernels import TokenOrder, TokenState, merge_by_token
from attviz.kernels import tokens as operator
from attviz.kernels.tokens import merge_by_token_reference
from attviz.kernels.triton import tokens

pytestmark = [pytest.mark.interpreter, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


@pytest.fixture(autouse=True)
def _through_triton(monkeypatch):
    monkeypatch.setattr(operator, "_merge_op", tokens.launch)


def assert_same(actual, expected):
    for have, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(have.double(), want.double(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_heads", [1, 3, 40])
def test_two_layers_of_one_step(dtype, num_heads):
    ids = torch.randint(-2, 9, (2, 19))
    state = expected = TokenState.empty(9, num_heads)
    order = TokenOrder.of(ids)
    for _ in range(2):
        diagonal = torch.rand(2, 19, num_heads).to(dtype).transpose(1, 2)
        expected = merge_by_token_reference(expected, ids, diagonal)
        merge_by_token(state, order, diagonal)
    assert_same(state, expected)


def test_segments_longer_than_a_chunk_are_pooled_from_their_pieces(monkeypatch):
    monkeypatch.setattr(operator, "SEGMENT_CHUNK", 8)
    monkeypatch.setattr(tokens, "SEGMENT_CHUNK", 8)
    monkeypatch.setattr(tokens.long_kernel, "warmup", lambda *_, **__: None, raising=False)  # the interpreter of Triton 3.5 has none
    ids = torch.cat((torch.full((17,), 4), torch.full((8,), 1), torch.full((9,), 6), torch.tensor([0, -1])))
    ids = ids[torch.randperm(len(ids))][None]
    state = TokenState.empty(7, 2)
    diagonal = 1e-4 + 1e-7 * torch.randn(2, 1, 2, ids.shape[1])
    expected = state
    for layer in diagonal:
        expected = merge_by_token_reference(expected, ids, layer)
        merge_by_token(state, ids, layer)
    assert state.count.tolist() == [2.0, 16.0, 0.0, 0.0, 34.0, 0.0, 18.0]
    assert_same(state, expected)


def test_ids_outside_the_vocabulary_are_skipped():
    state = TokenState.empty(2, 1)
    merge_by_token(state, torch.tensor([[1, 5, -3]]), torch.rand(1, 1, 3))
    assert state.count.tolist() == [0.0, 1.0]


def test_a_state_with_gaps_is_refused():
    state = TokenState(*(tensor[::2] for tensor in TokenState.empty(4, 1)))
    with pytest.raises(ShapeError, match=r"must be contiguous on the GPU; create it with TokenState\.empty"):
        merge_by_token(state, torch.tensor([[1]]), torch.rand(1, 1, 1))
