"""FUJI against its definition, item by item, and against the properties that it must have."""

import doctest
import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, ShapeError
from attviz.metrics.fuji import fuji, fuji_matrix, fuji_null


def slow_ranking(scores: list[float]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    groups = [[order[0]]]
    for before, item in itertools.pairwise(order):
        if scores[before] - scores[item] <= 1e-12:
            groups[-1].append(item)
        else:
            groups.append([item])
    return [item for group in groups for item in sorted(group)]


def slow_curve(u: list[float], v: list[float], eps: float = 0.0) -> list[float]:
    """The definition, one size and one item at a time."""
    u_order, v_order, curve, done = slow_ranking(u), slow_ranking(v), [], False
    for k in range(1, len(u) + 1):
        first_u, first_v = set(u_order[:k]), set(v_order[:k])
        theta_u, theta_v = min(u[i] for i in first_u), min(v[i] for i in first_v)
        done = done or max(theta_u, theta_v) <= eps

        def member(scores, theta, item):
            return min(1.0, scores[item] / theta) if theta > 0 else 1.0

        alone = sum(min(member(u, theta_u, i), member(v, theta_v, i)) for i in first_u ^ first_v)
        curve.append(1.0 if done or k == len(u) else (len(first_u & first_v) + alone) / len(first_u | first_v))
    return curve


SCORE = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 1e-13, 2e-13, 3e-12]),
    st.floats(0, 1),
    st.floats(1e-12, 1).map(lambda x: x**3),
    st.integers(0, 4).map(float),
)
PAIR = st.integers(1, 14).flatmap(lambda n: st.tuples(*[st.lists(SCORE, min_size=n, max_size=n)] * 2))


def curve_of(u, v, **options):
    return fuji(torch.tensor(u, dtype=torch.float64), torch.tensor(v, dtype=torch.float64), **options)


def test_doctest():
    assert doctest.testmod(sys.modules["attviz.metrics.fuji"]).failed == 0


@given(PAIR, st.sampled_from([0.0, 0.1]))
@settings(max_examples=250, deadline=None)
def test_curve_agrees_with_the_definition(pair, eps):
    result = curve_of(*pair, eps=eps)
    np.testing.assert_allclose(result.curve, slow_curve(*pair, eps=eps), rtol=0, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_the_fast_sums_lose_nothing_over_a_wide_range_of_scores(seed):
    scores = 10.0 ** np.random.default_rng(seed).uniform(-11, 0, (2, 120))
    np.testing.assert_allclose(curve_of(*scores).curve, slow_curve(*scores.tolist()), rtol=0, atol=1e-9)


@given(PAIR, st.floats(0.5, 4))
@settings(max_examples=100, deadline=None)
def test_symmetric_and_bounded(pair, factor):
    one, other = curve_of(*pair), curve_of(*pair[::-1])
    np.testing.assert_allclose(one.curve, other.curve, atol=1e-12)
    assert 0 <= one.area <= 1 + 1e-12


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_scale_does_not_count(seed, factor):
    u, v = np.random.default_rng(seed).random((2, 30))
    assert curve_of(u, v).area == pytest.approx(curve_of(u * factor, v).area, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_groups_of_ties_make_the_order_of_items_irrelevant(seed):
    generator = np.random.default_rng(seed)
    u, v = generator.integers(0, 4, (2, 12)).astype(float)
    order = generator.permutation(12)
    one, other = curve_of(u, v, ties="groups"), curve_of(u[order], v[order], ties="groups")
    assert one.sizes.tolist() == other.sizes.tolist()
    np.testing.assert_allclose(one.curve, other.curve, atol=1e-12)


@pytest.mark.parametrize(
    ("u", "v", "area"),
    [
        ([1.0, 0.9, 0.3, 0.14, 0.1], [0.8, 0.9, 0.3, 0.14, 0.1], 0.98681),
        ([0.3, 0.2, 0.1], [0.3, 0.2, 0.1], 1.0),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 1.0),
        ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], 0.8333),
        ([1.0, 1.0, 1.0, 1.0], [4.0, 3.0, 2.0, 1.0], 1.0),
        ([0.7], [0.1], 1.0),
    ],
)
def test_known_areas(u, v, area):
    assert curve_of(u, v).area == pytest.approx(area, abs=5e-5)


@pytest.mark.parametrize(("sizes", "expected"), [("all", [*range(1, 12)]), ("squares", [1, 4, 9, 11]), ("powers", [1, 2, 4, 8, 11])])
def test_sizes_end_with_all_items(sizes, expected):
    u, v = np.random.default_rng(0).random((2, 11))
    result = curve_of(u, v, sizes=sizes)
    assert result.sizes.tolist() == expected
    full = slow_curve(u.tolist(), v.tolist())
    np.testing.assert_allclose(result.curve, [full[k - 1] for k in expected], atol=1e-12)
    assert result.area == pytest.approx(float(torch.trapezoid(torch.as_tensor(result.curve), dx=1 / (len(expected) - 1))))


def test_matrix_is_every_pair():
    scores = torch.rand(4, 25, dtype=torch.float64)
    matrix = fuji_matrix(scores, sizes="squares", ties="groups")
    for one in range(4):
        for other in range(4):
            assert matrix[one, other] == pytest.approx(fuji(scores[one], scores[other], sizes="squares", ties="groups").area)


def test_null_of_uniform_scores_is_near_its_known_level_and_z_tells_a_copy_from_chance():
    scores = torch.rand(3, 400)
    scores[2] = scores[0] + 0.01 * torch.rand(400)
    null = fuji_null(scores, permutations=8)
    assert null.mean[1, 0] == pytest.approx(0.69, abs=0.03)  # of 8 permutations
    assert torch.isnan(null.mean.diagonal()).all()
    z = null.z(fuji_matrix(scores))
    assert z[2, 0] > 8
    assert abs(z[1, 0]) < 5
    torch.testing.assert_close(null.mean, fuji_null(scores, permutations=8).mean, equal_nan=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: curve_of([], []), ShapeError, "at least one item"),
        (lambda: curve_of([1.0], [1.0, 2.0]), ShapeError, r"got shapes \[1\] and \[2\]"),
        (lambda: curve_of([-1.0], [1.0]), ArgumentError, "finite and at least 0"),
        (lambda: curve_of([float("nan")], [1.0]), ArgumentError, "NaN means that an item was never seen"),
        (lambda: curve_of([1.0], [1.0], sizes="odd"), ArgumentError, "'all', 'squares', 'powers'; got 'odd'"),
        (lambda: curve_of([1.0], [1.0], ties="mean"), ArgumentError, "'index', 'groups'; got 'mean'"),
        (lambda: fuji_matrix(torch.rand(3)), ShapeError, r"\[num_heads, num_items\], got shape \[3\]"),
        (lambda: fuji_null(torch.rand(2, 3), permutations=1), ArgumentError, "at least 2, got 1"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
