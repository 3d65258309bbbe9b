"""The statistics of the BBC example, against brute force, and its class words and occlusion on toy data."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.records import Document

FOLDER = Path(__file__).parents[2] / "examples" / "bbc"


@pytest.fixture(scope="module")
def bbc():
    """The example's modules, imported as its command does."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in ("agreement", "data", "occlusion", "report", "run")})
    finally:
        sys.path.remove(str(FOLDER))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=20))
@settings(max_examples=60, deadline=None)
def test_area_is_the_share_of_pairs_in_order(bbc, rows):
    values, members = np.array([float(value) for value, _ in rows]), np.array([member for _, member in rows])
    if members.all() or not members.any():
        members[0] = not members[0]
    pairs = [(a > b) + 0.5 * (a == b) for a in values[members] for b in values[~members]]
    assert bbc.agreement.auc(values, members, permutations=2).value == pytest.approx(np.mean(pairs))


def test_rank_correlation_with_ties_and_its_null(bbc):
    one, other = np.array([1.0, 2.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0, 40.0])
    assert bbc.agreement.spearman(one, other) == pytest.approx(0.9486833)
    assert np.isnan(bbc.agreement.spearman(np.ones(3), np.arange(3.0)))
    generator = np.random.default_rng(0)
    alike = [(row, row + 0.1 * generator.random(30)) for row in generator.random((8, 30))]
    agreement = bbc.agreement.mean_spearman(alike, permutations=100)
    assert agreement.value > 0.9
    assert abs(agreement.null_mean) < 0.05
    assert agreement.z > 10


def test_class_words_tell_classes_apart(bbc):
    texts = ["profit the bank"] * 20 + ["film the actor"] * 20 + ["party the vote"] * 20 + ["goal the match"] * 20
    words = bbc.data.class_words(bbc.data.Split(texts, [label for label in range(4) for _ in range(20)]), per_class=2)
    assert words == {
        "business": ["bank", "profit"],
        "entertainment": ["actor", "film"],
        "politics": ["party", "vote"],
        "sport": ["goal", "match"],
    }


def test_a_split_is_read_with_its_parts_joined(bbc, tmp_path):
    (tmp_path / "a.tsv").write_text('label\ttext_a\n3\t"a  b  |||  c"\n')
    assert bbc.data.read_split(tmp_path / "a.tsv") == bbc.data.Split(["a b c"], [3])


def test_occlusion_finds_the_one_token_that_decides(bbc):
    def model(input_ids):
        decides = (input_ids == 7).any(dim=1).float()
        return SimpleNamespace(logits=torch.stack([5 * decides, torch.ones_like(decides)], dim=1))

    document = Document(
        "", ("[CLS]", "a", "b", "[SEP]"), np.zeros((1, 1, 4)), np.array([1, 7, 8, 2]), special=np.array([True, False, False, True])
    )
    (fall,) = bbc.occlusion.occlusion(model, SimpleNamespace(mask_token_id=0), [document])
    np.testing.assert_array_equal(fall, [np.nan, 5.0, 0.0, np.nan])
