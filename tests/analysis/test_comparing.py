"""Two real models on the same texts: what changed, against loops over tokens and a bootstrap by resampling lists."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attviz
from attviz import readings as r
from attviz.analysis.comparing import bootstrap_means
from attviz.errors import ArgumentError

TEXTS = [
    "the old bridge over the river was closed",
    "a good film , a bad film .",
    "the bank was open late",
    "storm in town by the river",
    "match",
]


@pytest.fixture(scope="module")
def other(classifier):
    """The same model with one head made to look at itself: its query and key projections of layer 1, head 2 are one large matrix."""
    changed = copy.deepcopy(classifier)
    attention = changed.bert.encoder.layer[1].attention.self
    with torch.no_grad():
        rows = slice(8, 12)
        attention.query.weight[rows] *= 60
        attention.key.weight[rows] = attention.query.weight[rows]
    return changed


@pytest.fixture(scope="module")
def found(classifier, other, tokenizer):
    return attviz.compare(classifier, other, TEXTS, tokenizer, names=("before", "after"))


def test_means_differences_and_changes_are_those_of_the_ordinary_tokens(found, classifier, other, tokenizer):
    sums = np.zeros((2, 2, 4))
    change, count = np.zeros((2, 4)), 0
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        both = []
        for model in (classifier, other):
            with torch.no_grad(), attviz.capture(model) as cap:
                model(**inputs)
            both.append(cap.diagonal[:, 0, :, 1:-1].double().numpy())  # without [CLS] and [SEP]
        sums += np.stack(both).sum(-1)
        change += abs(both[1] - both[0]).sum(-1)
        count += both[0].shape[-1]
    assert found.num_tokens == count
    np.testing.assert_allclose(found.mean, sums / count, rtol=1e-6)
    np.testing.assert_allclose(found.difference, (sums[1] - sums[0]) / count, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(found.change, change / count, rtol=1e-4, atol=1e-8)
    np.testing.assert_array_equal(found.difference[0], 0)  # the layer below is the same


def test_the_head_that_was_changed_is_ranked_first_and_certain(found):
    first = found.ranked(1)[0]
    assert (first.layer_index, first.head, first.certain) == (1, 2, True)
    assert first.layer == "bert.encoder.layer.1.attention.self"
    assert first.low <= first.difference <= first.high
    assert not found.certain[0].any()
    assert [abs(row.difference) for row in found.ranked()] == sorted((abs(row.difference) for row in found.ranked()), reverse=True)
    assert "head 2" in str(first)
    assert repr(found).startswith("<Comparison before -> after: 5 texts, ")


def test_the_table_has_one_row_per_head(found):
    table = found.table
    assert len(table) == 8
    assert list(table.columns[:3]) == ["layer", "layer_index", "head"]
    assert table.loc[0, "difference"] == found.difference[1, 2]


def test_figure_page_and_token_differences(found):
    figure = found.figure
    assert [ax.get_xlabel() for ax in figure.axes[:2]] == ["head", "change, after - before, with interval (grey: contains 0)"]
    plt.close("all")
    page = found.view([0])
    assert "1 document" in repr(page)
    assert page.html.count('"grid":1,') == 1
    assert attviz.view(found).html.count('"grid":1,') == len(TEXTS)
    difference = found.token_difference(0)
    assert difference.shape == (2, 4, len(found.analyses[0].documents[0].tokens))
    assert difference[1, 2].sum() != 0
    assert len(found.view().html) > 1000
    with pytest.raises(ArgumentError, match="document 7 does not exist"):
        found.view([7])


def test_settings_and_precisions_are_compared_as_well(classifier, tokenizer):
    eager = copy.deepcopy(classifier)
    eager.set_attn_implementation("eager")
    assert np.abs(attviz.compare(classifier, eager, TEXTS, tokenizer).difference).max() < 1e-6
    half = attviz.compare(classifier, lambda: copy.deepcopy(classifier).to(torch.bfloat16), TEXTS, tokenizer)
    assert 0 < half.change.max() < 0.01


def test_a_list_is_a_series_with_curves(classifier, other, tokenizer):
    series = attviz.compare([classifier, lambda: classifier, other], texts=TEXTS, tokenizer=tokenizer, steps=[0, 100, 200])
    assert series.mean.shape == (3, 2, 4)
    np.testing.assert_array_equal(series.mean[0], series.mean[1])
    ax = series.figure.axes[0]
    assert ax.get_xlabel() == "step"
    np.testing.assert_array_equal(ax.get_lines()[0].get_xdata(), [0, 100, 200])
    assert (series.mean_low <= series.mean).all()
    assert (series.mean <= series.mean_high).all()
    plt.close("all")


def test_one_text_has_no_interval_and_nothing_is_certain(classifier, other, tokenizer):
    found = attviz.compare(classifier, other, TEXTS[:1], tokenizer)
    assert np.isnan(found.low).all()
    assert not found.certain.any()
    assert found.figure is not None
    plt.close("all")


def test_what_cannot_be_compared_is_told(classifier, tokenizer, found):
    from transformers import BertConfig, BertModel

    small = BertModel(BertConfig(**{**classifier.config.to_dict(), "num_attention_heads": 2})).eval()
    with pytest.raises(ArgumentError, match=r"have \[num_layers, num_heads\] = \[2, 4\] and \[2, 2\].*layers="):
        attviz.compare(classifier, small, TEXTS, tokenizer)
    with pytest.raises(ArgumentError, match="one analysis has 5 texts, the other 1"):
        attviz.compare(found.analyses[0], attviz.analyze(classifier, tokenizer, TEXTS[:1], progress=False))
    with pytest.raises(ArgumentError, match=r"text 0 is split differently by the two models \(10 and 5 tokens\)"):
        attviz.compare(found.analyses[0], attviz.analyze(classifier, tokenizer, [*["a good film"] * 5], progress=False))
    with pytest.raises(ArgumentError, match="needs two models"):
        attviz.compare(classifier, texts=TEXTS, tokenizer=tokenizer)
    with pytest.raises(ArgumentError, match="tokenizer= is missing"):
        attviz.compare(classifier, classifier, TEXTS)
    with pytest.raises(ArgumentError, match="texts= is empty"):
        attviz.compare(classifier, classifier, [], tokenizer)
    with pytest.raises(ArgumentError, match="names has 1 entries for 2 models"):
        attviz.compare(classifier, classifier, TEXTS, tokenizer, names=["a"])
    with pytest.raises(TypeError, match="batchsize"):
        attviz.compare(classifier, classifier, TEXTS, tokenizer, batchsize=2)


@pytest.mark.parametrize("make", [lambda: r.Offset(-1), r.RowEntropy])
def test_any_reading_of_a_token_is_compared(classifier, other, tokenizer, make):
    reading = make()
    found = attviz.compare(classifier, other, TEXTS, tokenizer, names=("before", "after"), reading=reading)
    sums, count = np.zeros((2, 2, 4)), 0
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        for place, model in enumerate((classifier, other)):
            with torch.no_grad():
                weights = torch.stack(_eager(model)(**inputs, output_attentions=True).attentions)[:, 0].double()
            previous, entropy = weights.diagonal(-1, -2, -1)[..., :-1], torch.special.entr(weights).sum(-1)[..., 1:-1]
            sums[place] += (previous if isinstance(reading, r.Offset) else entropy).sum(-1).numpy()  # without [CLS] and [SEP]
        count += inputs["input_ids"].shape[1] - 2
    assert found.num_tokens == count
    np.testing.assert_allclose(found.mean, sums / count, rtol=1e-4, atol=1e-6)
    assert found.ranked(1)[0][1:3] == (1, 2)
    assert repr(found).startswith(f"<Comparison of {reading.name} before -> after: 5 texts")
    label = found.figure.axes[-1].get_ylabel()
    assert f"change of the mean {reading.name} ({reading.unit})" in label
    assert len(found.table) == 8
    assert repr(found.view([0])).startswith(f"<attviz.Page '{reading.name}: before -> after': 1 document,")
    plt.close("all")


def _eager(model):
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    return eager


def test_a_series_of_checkpoints_of_another_reading_are_curves(classifier, other, tokenizer):
    series = attviz.compare([classifier, classifier, other], texts=TEXTS, tokenizer=tokenizer, reading=r.Keys(first=1, name="sink"))
    assert series.figure.axes[0].get_ylabel() == "mean sink (probability)"
    np.testing.assert_array_equal(series.mean[0], series.mean[1])
    assert np.abs(series.mean[2, 1] - series.mean[1, 1]).max() > 0
    plt.close("all")


def test_readings_that_do_not_fit_a_comparison_are_told(classifier, tokenizer, found, tmp_path):
    with pytest.raises(ArgumentError, match=r"'rows\(-1\)' has shape .* instead of one number per token"):
        attviz.compare(classifier, classifier, TEXTS, tokenizer, reading=r.Rows(-1))
    with pytest.raises(ArgumentError, match=r"this analysis holds the diagonal, not offset\(-1\). Create it with .*reading=\.\.\."):
        attviz.compare(found.analyses[0], found.analyses[1], reading=r.Offset(-1))
    previous = attviz.analyze(classifier, tokenizer, TEXTS, reading=r.Offset(-1), progress=False)
    assert previous.settings["reading"] == "offset(-1)"
    assert np.isnan(previous.documents[0].diagonal[..., 0]).all()
    with pytest.raises(ArgumentError, match=r"this analysis holds offset\(-1\), not the diagonal"):
        attviz.compare(previous, previous)
    with pytest.raises(ArgumentError, match="an archive holds probabilities, but 'row_entropy' is in nats"):
        attviz.analyze(classifier, tokenizer, TEXTS, reading=r.RowEntropy(), archive=tmp_path / "a.attviz")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), texts=st.integers(2, 12))
def test_the_bootstrap_is_that_of_lists_drawn_with_replacement(seed, texts):
    """Each resample is a multiset of texts: its mean pools the tokens of the texts it holds."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, texts).astype(float)
    sums = rng.random((2, texts, 3)) * counts[None, :, None]
    means = bootstrap_means(sums, counts, 400, seed)
    drawn = np.random.default_rng(seed).multinomial(texts, np.full(texts, 1 / texts), size=400)
    for sample in (0, 7, 399):
        places = np.repeat(np.arange(texts), drawn[sample])
        assert len(places) == texts
        expected = sums[:, places].sum(1) / counts[places].sum()
        np.testing.assert_allclose(means[sample], expected, rtol=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Texts of uneven length, a known mean: 95 % intervals cover it in 90 to 98 of 100 trials."""
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        counts = rng.integers(5, 20, 60).astype(float)
        sums = (counts * (0.3 + rng.normal(0, 0.1, 60)))[None, :, None]
        low, high = np.quantile(bootstrap_means(sums, counts, 500, trial)[:, 0, 0], [0.025, 0.975])
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 198
