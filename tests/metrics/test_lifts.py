"""Lift against counting the visible keys one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, ShapeError
from attviz.metrics import lift
from attviz.metrics.lifts import count_visible_keys


def visible(mask, query, key, is_causal, window_size):
    if not mask[key]:
        return False
    if is_causal:
        return key <= query and (window_size is None or query - key < window_size)
    return window_size is None or abs(query - key) <= window_size // 2


@given(
    mask=st.lists(st.booleans(), min_size=1, max_size=8),
    is_causal=st.booleans(),
    window_size=st.one_of(st.none(), st.integers(1, 9)),
)
@settings(max_examples=80, deadline=None)
def test_visible_keys_are_those_counted_one_by_one(mask, is_causal, window_size):
    expected = [sum(visible(mask, i, j, is_causal, window_size) for j in range(len(mask))) for i in range(len(mask))]
    counted = count_visible_keys(torch.tensor([mask]), is_causal=is_causal, window_size=window_size)
    assert counted.tolist() == [expected]


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_uniform_attention_lifts_to_one(is_causal, padding):
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    mask = mask.flip(1) if padding == "left" else mask
    seen = count_visible_keys(mask, is_causal=is_causal)
    diagonal = torch.where(mask, 1 / seen, torch.nan)[None, :, None].expand(3, 2, 4, 5)
    expected = torch.where(mask, 1.0, torch.nan)[None, :, None].expand_as(diagonal)
    torch.testing.assert_close(lift(diagonal, is_causal=is_causal), expected, equal_nan=True)
    torch.testing.assert_close(lift(diagonal, is_causal=is_causal, query_mask=mask), expected, equal_nan=True)
    torch.testing.assert_close(lift(diagonal, seen), expected, equal_nan=True)
    torch.testing.assert_close(lift(diagonal[0], seen), expected[0], equal_nan=True)


def test_a_single_row_of_visible_keys_serves_the_batch():
    assert lift(torch.full((2, 1, 3), 0.5), torch.tensor([1, 2, 3])).tolist() == [[[0.5, 1.0, 1.5]]] * 2


def test_lift_asks_what_is_visible():
    diagonal = torch.rand(2, 1, 3)
    with pytest.raises(ArgumentError, match="specify what each query can see in exactly one way"):
        lift(diagonal)
    with pytest.raises(ArgumentError, match="visible_keys=a tensor and is_causal=True"):
        lift(diagonal, torch.ones(3, dtype=torch.long), is_causal=True)
    with pytest.raises(ArgumentError, match="window_size must be at least 1, got 0"):
        lift(diagonal, is_causal=True, window_size=0)
    with pytest.raises(ShapeError, match=r"must broadcast to \[batch, q_len\] = \(2, 3\), got \(2, 4\)"):
        lift(diagonal, torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(ShapeError, match=r"query_mask must be \[batch, q_len\] = \(2, 3\), got \(3, 2\)"):
        lift(diagonal, is_causal=True, query_mask=torch.ones(3, 2, dtype=torch.bool))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window_size", [None, 3])
def test_packed_texts_see_themselves_only(is_causal, window_size):
    lengths = (4, 1, 6)
    numbers = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    packed = count_visible_keys(torch.ones(1, 11, dtype=torch.bool), is_causal=is_causal, window_size=window_size, document_ids=numbers)
    alone = [count_visible_keys(torch.ones(1, n, dtype=torch.bool), is_causal=is_causal, window_size=window_size) for n in lengths]
    assert torch.equal(packed, torch.cat(alone, 1))
    diagonal = torch.rand(2, 1, 3, 11)
    lifts = lift(diagonal, is_causal=is_causal, window_size=window_size, document_ids=numbers)
    torch.testing.assert_close(lifts, diagonal * packed[:, None])
    with pytest.raises(ShapeError, match=r"document_ids must be \[batch, q_len\] = \(1, 11\), got \(1, 3\)"):
        lift(diagonal, is_causal=is_causal, document_ids=numbers[:, :3])
