"""A page of another reading than the diagonal: it speaks of that reading and its unit, and never of own positions."""

import copy
import csv
import io

import numpy as np
import pytest
import torch

import attviz
from attviz import readings as r
from attviz.errors import ArgumentError
from tests.text_models import classifier, config, tokenizer  # noqa: F401  # fixtures

pytestmark = pytest.mark.browser

TEXTS = [
    "the old bridge over the river was closed",
    "a good film , a bad film .",
    "the bank was open late",
    "storm in town by the river",
    "the old bank",
]


@pytest.fixture(scope="module")
def other(classifier):  # noqa: F811
    changed = copy.deepcopy(classifier)
    with torch.no_grad():
        for parameter in changed.bert.encoder.layer[1].attention.self.query.parameters():
            parameter *= 30
    return changed


def words(sheet):
    """All that a reader of the open tab can read: what stands there, tooltips, labels and the axes of the figures."""
    return sheet.evaluate(
        """() => [document.body.innerText, ...[...document.querySelectorAll("[title], [aria-label]")]
            .filter(one => one.checkVisibility()).flatMap(one => [one.title, one.ariaLabel])].join("\\n")"""
    )


@pytest.mark.parametrize("reading", [r.RowEntropy(), r.Offset(-1, name="previous"), r.MaxLogit()], ids=lambda one: one.name)
def test_a_comparison_of_a_reading_opens_and_speaks_of_it(show, classifier, other, tokenizer, reading):  # noqa: F811
    found = attviz.compare(classifier, other, TEXTS, tokenizer, names=("before", "after"), reading=reading)
    page = found.view()
    unit = f"{reading.name} ({reading.unit})"
    sheet = show(page, address="tab=compare")
    sheet.until("document.querySelectorAll('.card-changes li').length === 8")
    best = found.ranked(1)[0]
    # The page opens on the first text; the interval in the tooltip is that of all of them.
    one, two = (analysis.documents[0].diagonal[:, :, 1:-1].astype(np.float64) for analysis in found.analyses)
    gaps = np.nanmean(two, axis=2) - np.nanmean(one, axis=2)
    layer, head = np.unravel_index(np.abs(gaps).argmax(), gaps.shape)
    first = sheet.locator(".card-changes li").first
    assert first.inner_text().split()[0] == f"L{layer}·H{head}"
    assert float(first.locator(".value").inner_text()) == pytest.approx(gaps[layer, head], rel=6e-3)
    assert sheet.locator(".title-note").inner_text().startswith(f"{reading.name}: before -> after")
    assert f"L{best.layer_index}·H{best.head} changed most" in sheet.locator(".card-insights").text_content()
    compared = words(sheet)
    sheet.get_by_role("group", name="View").get_by_role("button", name=reading.name, exact=True).click()
    sheet.settle()
    own = words(sheet)
    for said in ("itself", "themselves", "own position", "lift", "even attention"):
        assert said not in (compared + own).lower(), said
    assert f"in {reading.unit}" in own
    svg = sheet.download("SVG", inside="Series and vectors").decode()
    assert unit in svg
    rows = list(csv.DictReader(io.StringIO(sheet.download("CSV", inside="Values of this document").decode())))
    told = np.array([[float(row[f"L{layer}·H{head}"] or "nan") for row in rows] for layer in range(2) for head in range(4)])
    expected = found.analyses[0].documents[0].diagonal.reshape(8, -1)
    np.testing.assert_allclose(told, expected, rtol=3e-4, atol=2e-5)


def test_readings_beyond_one_are_drawn_where_they_are(show, classifier, tokenizer):  # noqa: F811
    """Nats and logits: a linear axis with the largest value inside, colours from end to end, the top tokens by value."""
    made = attviz.analyze(classifier, tokenizer, TEXTS, reading=r.RowEntropy(), progress=False, precision="float32")
    sheet = show(attviz.view(made))
    entropy = made.documents[0].diagonal[:, :, 1:-1].astype(np.float64)
    assert entropy.max() > 1.5
    low, high = (float(f"{value:.2g}") for value in (entropy.min(), entropy.max()))
    assert sheet.locator(".card-series .legend-item").last.inner_text() == f"{low:g} – {high:g}, linear"
    assert not sheet.locator("[aria-label='Axis of the values']").is_visible()
    assert sheet.locator("[aria-label='Scale of colours and strokes'] option").all_inner_texts() == ["raw"]
    best = entropy.mean((0, 1)).max()
    assert float(sheet.locator(".top li .value").first.inner_text()) == pytest.approx(best, rel=6e-3)
    assert attviz.insights(made)[0].text in sheet.locator(".card-insights").text_content()
    mean = np.concatenate([one.diagonal[:, :, 1:-1] for one in made.documents], axis=2).mean(dtype=np.float64)
    assert f"row_entropy is {mean:.3g} nats on average" in attviz.insights(made)[0].text
    sheet.get_by_role("group", name="Tokens of").get_by_role("button", name="all").click()
    sheet.select_option("[aria-label='Fewest places']", "1")
    sheet.until("document.querySelector('.top li .note').textContent.includes('×')")
    assert float(sheet.locator(".top li .value").first.inner_text()) > 1


def test_a_text_alone_of_a_reading_names_it(show, classifier, tokenizer):  # noqa: F811
    made = attviz.analyze(classifier, tokenizer, TEXTS[:1], reading=r.RowEntropy(), progress=False, precision="float32")
    sheet = show(attviz.view(made, show="text"))
    sheet.locator(".token", has_text="bridge").hover()
    sheet.settle()
    assert "“bridge”: row_entropy (nats) " in sheet.locator(".readout").inner_text()


def test_sides_that_hold_different_numbers_are_told(classifier, tokenizer):  # noqa: F811
    entropy = attviz.analyze(classifier, tokenizer, TEXTS, reading=r.RowEntropy(), progress=False, precision="float32")
    diagonal = attviz.analyze(classifier, tokenizer, TEXTS, progress=False)
    with pytest.raises(ArgumentError, match=r"'a' holds row_entropy and 'b' holds the diagonal; .*Make both with the same"):
        attviz.view({"a": entropy, "b": diagonal})
