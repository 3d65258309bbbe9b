"""Special tokens in or out: one switch for every number of the page, and the same definition in Python."""

import csv
import io
import json
import re

import numpy as np
import pytest

from attviz.records import Document
from attviz.spelling import special_tokens
from attviz.viewer import html, view

pytestmark = pytest.mark.browser


def switch(sheet, value):
    sheet.get_by_role("group", name="Special tokens").get_by_role("button", name=value, exact=True).click()
    sheet.settle()


def told(sheet):
    """Numbers that the page shows for the vector L1·H2: in the list of rows, in the list of documents, and the highest top token."""
    row = float(sheet.locator("tr[data-key='L1·H2'] .value").inner_text())
    mean = float(sheet.locator("tr[data-document='0'] .c-number").last.inner_text())
    return row, mean, sheet.locator(".top li").first.inner_text().split("\n")[0]


def test_one_switch_for_rows_documents_map_and_top_tokens(show, page, analysis):
    sheet = show(page, address="pin=L1·H2")
    diagonal = analysis.documents[0].diagonal.astype(np.float64)
    out, whole = told(sheet), None
    assert out[:2] == (pytest.approx(diagonal[1, 2, 1:-1].mean(), rel=6e-3), pytest.approx(diagonal[:, :, 1:-1].mean(), rel=6e-3))
    switch(sheet, "in")
    whole = told(sheet)
    assert whole[:2] == (pytest.approx(diagonal[1, 2].mean(), rel=6e-3), pytest.approx(diagonal.mean(), rel=6e-3))
    assert sheet.hash()["special"] == ["in"]
    tokens = [re.sub(r"\W", "", token) for token in analysis.documents[0].tokens]
    order = np.argsort(-diagonal.mean((0, 1)))
    assert whole[2].startswith(tokens[order[0]])
    assert out[2].startswith(next(tokens[i] for i in order if 0 < i < len(tokens) - 1))


def test_a_special_token_says_that_it_is_left_out_and_the_csv_has_it_all_the_same(show, page, analysis):
    sheet = show(page)
    sheet.locator(".chip-token").first.hover()
    sheet.settle()
    assert "left out of every number" in sheet.locator(".card-token").inner_text()
    rows = list(csv.DictReader(io.StringIO(sheet.download("CSV", inside="Values of this document").decode())))
    assert [row["special"] for row in rows] == ["1", *["0"] * (len(rows) - 2), "1"]
    np.testing.assert_allclose(
        [float(row["mean"]) for row in rows], analysis.documents[0].diagonal.mean((0, 1), dtype=np.float64), rtol=2e-6
    )


def test_the_json_keeps_special_tokens_values_and_says_which_they_are(show, page, analysis):
    sheet = show(page)
    found = json.loads(sheet.download("JSON", inside="This document, as AttViz JSON"))[0]["sets"][0]
    assert found["special"] == [0, len(found["tokens"]) - 1]
    got = np.array([vector["vectors"] for vector in found["attention_vectors"]], np.float32)
    np.testing.assert_array_equal(got, analysis.documents[0].diagonal.reshape(12, -1))


def test_page_and_python_take_the_same_spellings_for_special(show):
    tokens = ["[CLS]", "[unused1]", "<s>", "</s>", "<extra_id_0>", "<|im_start|>", "[a", "a]", "<", "<b c>", "word", "[MASK]", "<pad>"]
    vectors = [{"name": "v", "vectors": [0.5] * len(tokens)}]
    sheet = show(view(Document("a", ("a",), np.full((1, 1, 1), 0.5, np.float32))))
    sheet.drop("some.json", json.dumps([{"text": " ".join(tokens), "sets": [{"tokens": tokens, "attention_vectors": vectors}]}]))
    sheet.titled("some.json")
    chips = sheet.locator(".token.chip-token").evaluate_all("list => list.map(e => Number(e.dataset.token))")
    assert chips == np.flatnonzero(special_tokens(tokens)).tolist()
    assert html.static("page.js")


def test_a_document_without_words_still_shows_its_special_tokens(show):
    values = np.full((1, 2, 2), 0.25, np.float32)
    sheet = show(view(Document("", ("[CLS]", "[SEP]"), values, special=np.array([True, True]))))
    assert sheet.locator(".token").count() == 2
    assert float(sheet.locator("tr[data-document='0'] .c-number").last.inner_text()) == 0.25
