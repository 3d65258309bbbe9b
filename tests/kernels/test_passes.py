"""Received attention, masses and distances from the log-sum-exp, in torch, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, DtypeError, ShapeError
from attviz.kernels import (
    facts_from_logsumexp,
    mass_from_logsumexp,
    parts,
    passes,
    reach_from_logsumexp,
    received_from_logsumexp,
    weight_tiles,
)
from tests.kernels.passes import assert_packed_passes, assert_passes, options_of, rows_of


@settings(max_examples=25, deadline=None)
@given(data=st.data(), q_len=st.integers(1, 20), extra=st.integers(0, 9), group=st.integers(1, 2))
def test_any_shape_and_mix_of_options(data, q_len, extra, group):
    query, key = torch.randn(2, 2 * group, q_len, 8), torch.randn(2, 2, q_len + extra, 8)
    options, query_mask = data.draw(options_of(2 * group, q_len, q_len + extra))
    lse = rows_of(query, key, options, data.draw(st.sampled_from([None, torch.linspace(-1, 1, 2 * group)])))
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(("_ROWS", "_COLUMNS", "_TILE"), data.draw(st.sampled_from([(64, 2048, 1 << 17), (3, 4, 30)])), strict=True):
            patch.setattr(weight_tiles, name, size)
        assert_passes(query, key, lse, options, query_mask, data.draw(st.sampled_from([None, 0])))


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"bias": torch.randn(1, 1, 30, 40)}, {"bias": torch.rand(2, 1, 1, 40) > 0.2}])
def test_the_usual_rules_take_the_tiles_that_keep_no_maximum(options, monkeypatch):
    query, key = torch.randn(2, 6, 30, 8), torch.randn(2, 2, 40, 8)
    lse = rows_of(query, key, options)
    for name in ("tiles", "row_sums"):
        monkeypatch.setattr(passes, name, None)
    assert_passes(query, key, lse, options, torch.rand(2, 30) > 0.3)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4), past=st.integers(0, 2), is_causal=st.booleans(), window=st.booleans())
def test_packed_texts(lengths, past, is_causal, window):
    bounds_q = torch.tensor([0, *lengths]).cumsum(0).int()
    bounds_k = torch.tensor([0, *(length + past for length in lengths)]).cumsum(0).int()
    query, key = torch.randn(1, 4, int(bounds_q[-1]) + 2, 8), torch.randn(1, 2, int(bounds_k[-1]) + 2, 8)
    options = {"is_causal": is_causal, "window_size": (2, 1) if window else (-1, -1)}
    if bounds_q[-1] == 0:
        return
    lse = rows_of(
        query[:, :, : int(bounds_q[-1])], key[:, :, : int(bounds_k[-1])], {**options, "cu_seqlens_q": bounds_q, "cu_seqlens_k": bounds_k}
    )
    assert_packed_passes(query, key, torch.nn.functional.pad(lse, (0, 2)), bounds_q, bounds_k, options)


def test_a_row_that_finfo_min_hides_is_uniform_and_a_dead_one_gives_nothing():
    query, bias = torch.randn(1, 2, 5, 8), torch.zeros(5, 5)
    bias[1], bias[3] = torch.finfo(torch.float32).min, -torch.inf
    lse = rows_of(query, query, {"bias": bias})
    mass = mass_from_logsumexp(query, query, lse, torch.eye(5), bias=bias)
    torch.testing.assert_close(mass[:, :, 1], torch.full((1, 2, 5), 0.2))
    assert (mass[:, :, 3] == 0).all()
    assert (received_from_logsumexp(query, query, lse, bias=bias)[1] == 3).all()
    entropy, largest = facts_from_logsumexp(query, query, lse, bias=bias)
    torch.testing.assert_close(entropy[:, :, 1], torch.full((1, 2), 5.0).log())
    assert (entropy[:, :, 3] == 0).all()
    assert (largest[:, :, 3] == -torch.inf).all()


def test_not_a_number_shows():
    query = torch.randn(1, 1, 3, 8)
    lse = rows_of(query, query, {})
    query[0, 0, 1, 0] = torch.nan
    assert mass_from_logsumexp(query[:, :, 1:2], torch.randn(1, 1, 3, 8), lse[..., 1:2], torch.ones(3, 1)).isnan().all()
    assert facts_from_logsumexp(query[:, :, 1:2], torch.randn(1, 1, 3, 8), lse[..., 1:2]).isnan().all()


@pytest.mark.parametrize("tile", [1 << 17, 2 * 4 * 5 * 7, 4 * 5 * 7])  # all texts together, two at a time, each alone
@pytest.mark.parametrize("shape", [None, (5, 7), (5, 1, 1, 7), (1, 4, 5, 7), (5, 4, 5, 1), (5, 1, 5, 7)])
def test_short_texts_are_taken_together(tile, shape, monkeypatch):
    query, key = torch.randn(5, 4, 5, 8), torch.randn(5, 2, 7, 8)
    options = {} if shape is None else {"bias": torch.randn(shape).masked_fill(torch.rand(shape) > 0.8, -torch.inf)}
    lse, taken = rows_of(query, key, options), []
    monkeypatch.setattr(weight_tiles, "_TILE", tile)
    monkeypatch.setattr(passes, "parts", lambda *given: taken.append([*parts.parts(*given)]) or iter(taken[-1]))
    assert_passes(query, key, lse, options, torch.rand(5, 5) > 0.3)
    assert {len(several) for several in taken} == {{1 << 17: 1, 280: 3, 140: 5}[tile]}


def test_short_texts_together_are_as_each_alone_where_a_row_is_hidden_as_a_whole(monkeypatch):
    query, key, bias = torch.randn(5, 4, 5, 8), torch.randn(5, 2, 7, 8), torch.zeros(5, 1, 5, 7)
    bias[:, :, 2], bias[3, :, 4] = torch.finfo(torch.float32).min, -torch.inf
    lse, real, features = rows_of(query, key, {"bias": bias}), torch.rand(5, 5) > 0.3, torch.rand(5, 7, 3)

    def found():
        yield received_from_logsumexp(query, key, lse, query_mask=real, bias=bias)
        yield mass_from_logsumexp(query, key, lse, features, bias=bias)
        yield reach_from_logsumexp(query, key, lse, bias=bias)
        yield facts_from_logsumexp(query, key, lse, bias=bias)

    together = [*found()]
    monkeypatch.setattr(weight_tiles, "_TILE", 1)
    for one, other in zip(together, found(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    query, key = torch.randn(2, 4, 9, 16).to(dtype), torch.randn(2, 2, 12, 16).to(dtype)
    assert_passes(query, key, rows_of(query, key, {"is_causal": True}), {"is_causal": True})


OPERATORS = {
    "received": lambda q, lse: (passes._received_op, (q, q, lse, None, 0.3, 0, True, -1, 0, 0.0, *(None,) * 5, 6)),
    "mass": lambda q, lse: (passes._mass_op, (q, q, lse, torch.rand(1, 6, 3), -1, 0.3, 0, True, -1, 0, 0.0, *(None,) * 5, 6)),
    "facts": lambda q, lse: (passes._facts_op, (q, q, lse, 0.3, 0, True, -1, 0, 0.0, *(None,) * 5, 6)),
    "reach": lambda q, lse: (passes._mass_op, (q, q, lse, None, 2, 0.3, 0, True, -1, 0, 0.0, *(None,) * 5, 6)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name):
    query = torch.randn(2, 2, 6, 8)
    operator, given = OPERATORS[name](query, torch.zeros(2, 2, 6))
    torch.library.opcheck(operator, given)


def test_bad_input_is_named():
    query, lse = torch.randn(1, 2, 4, 8), torch.zeros(1, 2, 4)
    with pytest.raises(ArgumentError, match="sinks must be part of the logsumexp"):
        received_from_logsumexp(query, query, lse, sinks=torch.zeros(2))
    with pytest.raises(ShapeError, match=r"features must be \[kv_len, num_features\]"):
        mass_from_logsumexp(query, query, lse, torch.zeros(5, 1))
    with pytest.raises(ShapeError, match="query_mask must be of shape"):
        received_from_logsumexp(query, query, lse, query_mask=torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(DtypeError, match="logsumexp must be float"):
        reach_from_logsumexp(query, query, lse.long())
