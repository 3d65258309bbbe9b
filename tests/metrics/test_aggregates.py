"""The functions over vectors, against slow float64 oracles written from definitions.md."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import attviz.metrics as metrics
from attviz.errors import ArgumentError, DtypeError, ShapeError

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.integers(1, 4))
VALUES = st.one_of(st.sampled_from([0.0, 0.25, float(np.float32(0.29)), 0.5, 1.0]), st.floats(0, 1, width=32))
DIAGONALS = SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=VALUES)).map(torch.from_numpy)
BY_PAPER = ("mean", "std", "max", "min", "range", "entropy")


def tokens(diagonal):
    """Yield (batch, position, list of float64 vectors) of a [num_layers, batch, num_heads, q_len] diagonal."""
    for b in range(diagonal.shape[1]):
        for i in range(diagonal.shape[3]):
            yield b, i, diagonal[:, b, :, i].double().flatten().tolist()


def plog(p):
    return 0.0 if p == 0 else p * math.log(p)


def oracle(name, vectors):
    h = len(vectors)
    average = sum(vectors) / h
    if name == "std":
        return math.sqrt(sum((a - average) ** 2 for a in vectors) / (h - 1)) if h > 1 else math.nan
    if name == "entropy":
        return -sum(plog(a) for a in vectors) / len(set(vectors))
    return {"mean": average, "max": max(vectors), "min": min(vectors), "range": max(vectors) - min(vectors)}[name]


def binned_oracle(vectors):
    found = [math.floor(100 * a) / 100 for a in vectors]
    return -sum(plog(found.count(b) / len(found)) for b in set(found)) / len(set(found))


def shannon_oracle(vectors):
    total = sum(vectors)
    return math.nan if total == 0 else -sum(plog(a / total) for a in vectors)


def assert_tokens(actual, diagonal, expected, tolerance=1e-6):
    for b, i, vectors in tokens(diagonal):
        assert actual[b, i].item() == pytest.approx(expected(vectors), abs=tolerance, rel=tolerance, nan_ok=True), (b, i, vectors)


@pytest.mark.parametrize("name", BY_PAPER)
@given(diagonal=DIAGONALS)
@settings(max_examples=40, deadline=None)
def test_aggregate_agrees_with_the_formula_of_the_paper(name, diagonal):
    assert_tokens(getattr(metrics, name)(diagonal), diagonal, lambda vectors: oracle(name, vectors))


@pytest.mark.parametrize(("kind", "expected"), [("binned", binned_oracle), ("shannon", shannon_oracle)])
@given(diagonal=DIAGONALS)
@settings(max_examples=40, deadline=None)
def test_entropy_kinds_agree_with_their_formulas(kind, expected, diagonal):
    assert_tokens(metrics.entropy(diagonal, kind=kind), diagonal, expected, tolerance=2e-6)


def test_std_of_the_original_page_divides_by_the_number_of_vectors():
    diagonal = torch.rand(2, 1, 3, 4, dtype=torch.float64)
    expected = diagonal[:, 0].permute(2, 0, 1).flatten(1).numpy().std(axis=1, ddof=0)
    np.testing.assert_allclose(metrics.std(diagonal, correction=0)[0].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.29, 28), (1.0, 100), (0.0, 0), (0.999999, 99), (1.0000001, 100), (-1e-9, 0)],
)
def test_bins_are_those_of_double_precision(value, expected):
    from attviz.metrics.entropies import bins

    assert bins(torch.tensor([value], dtype=torch.float64)).item() == expected


def test_bin_of_float32_029_is_28_where_float32_arithmetic_would_say_29():
    from attviz.metrics.entropies import bins

    value = torch.tensor(0.29)
    assert (value * 100).floor().item() == 29
    assert bins(value).item() == 28


@pytest.mark.parametrize(
    ("bins_seen", "expected"),
    [([0.5], 0.0), ([0.1, 0.9], math.log(2) / 2), ([k / 100 + 0.005 for k in range(12)], math.log(12) / 12)],
)
def test_binned_entropy_is_not_monotone(bins_seen, expected):
    diagonal = torch.tensor(bins_seen, dtype=torch.float64).reshape(1, -1, 1)
    assert metrics.entropy(diagonal, kind="binned").item() == pytest.approx(expected, abs=1e-12)


def test_shannon_entropy_normalizes_to_one_for_equal_vectors():
    assert metrics.entropy(torch.full((2, 1, 3, 1), 0.2), kind="shannon", normalize=True).item() == pytest.approx(1)
    assert metrics.entropy(torch.ones(1, 1, 1), kind="shannon", normalize=True).isnan().all()


@pytest.mark.parametrize("kind", ["table2", "binned", "shannon"])
def test_padding_stays_nan_and_real_tokens_ignore_it(kind):
    diagonal = torch.rand(2, 2, 3, 5)
    alone = metrics.aggregate(diagonal[..., :3], kind=kind)
    diagonal[..., 3:] = float("nan")
    padded = metrics.aggregate(diagonal, kind=kind)
    for name in BY_PAPER:
        assert padded[name][:, 3:].isnan().all(), name
        torch.testing.assert_close(padded[name][:, :3], alone[name], rtol=0, atol=0)


def test_one_vector_has_no_std_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.std(torch.rand(1, 1, 4)).isnan().all()
        assert (metrics.std(torch.rand(1, 1, 4), correction=0) == 0).all()


def test_over_keeps_the_layers_or_the_heads():
    diagonal = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(metrics.mean(diagonal, over="heads"), torch.stack([metrics.mean(layer) for layer in diagonal]))
    torch.testing.assert_close(metrics.mean(diagonal, over="layers"), diagonal.mean(0))
    torch.testing.assert_close(metrics.max(diagonal, over="layers"), diagonal.amax(0))
    torch.testing.assert_close(metrics.range(diagonal), metrics.max(diagonal) - metrics.min(diagonal))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_read_in_float32(dtype):
    diagonal = torch.rand(2, 1, 64, 3).to(dtype)
    six = metrics.aggregate(diagonal)
    for name in BY_PAPER:
        assert six[name].dtype == torch.float32
        torch.testing.assert_close(six[name], metrics.aggregate(diagonal.float())[name], rtol=0, atol=0)


def test_aggregate_gives_the_six_by_attribute_name_and_table():
    diagonal = torch.rand(2, 2, 3, 4)
    diagonal[:, 1, :, 2:] = float("nan")
    six = metrics.aggregate(diagonal, correction=0, kind="shannon")
    assert six._fields == BY_PAPER
    assert six["mean"] is six.mean
    assert six[0] is six.mean
    torch.testing.assert_close(six.std, metrics.std(diagonal, correction=0), equal_nan=True)
    torch.testing.assert_close(six.entropy, metrics.entropy(diagonal, kind="shannon"), equal_nan=True)
    table = six.to_pandas()
    assert list(table.columns) == list(BY_PAPER)
    assert len(table) == 6  # 4 + 2 real tokens
    assert table.loc[(1, 1), "max"] == pytest.approx(six.max[1, 1].item())
    with pytest.raises(ArgumentError, match="there is no aggregate 'median'. Choose one of mean, std, max, min, range, entropy"):
        six["median"]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.rand(4, 4), ShapeError, r"mean: the diagonal has axes \[num_layers, batch, num_heads, q_len\].*got 2 axes, \(4, 4\)"),
        (torch.rand(1, 2, 3, 4, 5), ShapeError, "got 5 axes"),
        (torch.rand(0, 2, 3, 4), ShapeError, "the diagonal num_layers=0 batch=2 num_heads=3 q_len=4 is empty"),
        (torch.ones(1, 2, 3, dtype=torch.long), DtypeError, r"got torch.int64. Call .float\(\)"),
        (np.ones((1, 2, 3)), DtypeError, "got ndarray.*from_numpy"),
    ],
)
def test_what_is_no_diagonal_is_refused_by_name(bad, error, message):
    with pytest.raises(error, match=message):
        metrics.mean(bad)


def test_wrong_choices_are_refused_with_the_right_ones():
    diagonal = torch.rand(1, 2, 3)
    with pytest.raises(ArgumentError, match="kind must be one of 'table2', 'binned', 'shannon'"):
        metrics.entropy(diagonal, kind="gini")
    with pytest.raises(ArgumentError, match="normalize=True divides"):
        metrics.entropy(diagonal, normalize=True)
    with pytest.raises(ArgumentError, match="over must be one of 'heads and layers', 'heads', 'layers'"):
        metrics.std(diagonal, over="tokens")
    with pytest.raises(ShapeError, match="over='layers' needs"):
        metrics.std(diagonal, over="layers")
    with pytest.raises(ArgumentError, match="correction must be at least 0, got -1"):
        metrics.std(diagonal, correction=-1)


def test_functions_run_on_meta_so_nothing_reads_a_value():
    diagonal = torch.rand(2, 3, 4, 5, device="meta")
    for kind in ("table2", "binned", "shannon"):
        assert all(value.shape == (3, 5) for value in metrics.aggregate(diagonal, kind=kind))
    assert metrics.lift(diagonal, is_causal=True).shape == diagonal.shape


def test_importing_the_functions_leaves_torchmetrics_alone():
    code = "import sys, attviz.metrics; print([m for m in ('torchmetrics', 'pandas', 'matplotlib', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
