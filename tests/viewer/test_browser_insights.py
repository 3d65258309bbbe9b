"""What stands out: the sentences of Python on the page, each a button that shows what it says."""

from dataclasses import replace

import numpy as np
import pytest

import attviz
from attviz.records import Document
from attviz.viewer import view
from tests.viewer.conftest import make_document

pytestmark = pytest.mark.browser


def sentences(sheet):
    if sheet.locator(".card-insights .link").is_visible():
        sheet.locator(".card-insights .link").click()
        sheet.settle()
    return sheet.locator(".card-insights li").all_inner_texts()


def test_the_page_says_what_python_says(show, page, analysis):
    told = " ".join(sentences(show(page)))
    for insight in attviz.insights(analysis):
        assert insight.text in told
        assert insight.null in told


def test_a_sentence_shows_what_it_says(show, page, analysis):
    sheet = show(page)
    name, head = next((one.name, one.state["pin"][0]) for one in attviz.insights(analysis) if one.name == "most")
    assert name == "most"
    sheet.get_by_role("button", name="looks at its own position most").click()
    sheet.settle()
    assert sheet.row_names()[0] == head
    assert sheet.hash()["arrange"] == ["value"]
    sheet.mouse.move(*(sheet.locator(".figure.heat").bounding_box()[side] + 30 for side in ("x", "y")))
    sheet.settle()
    assert sheet.locator(".card-heat .readout").inner_text().startswith(head)  # the ranking begins with it
    sheet.get_by_role("button", name="more than the other tokens in").click()
    sheet.settle()
    assert sheet.hash()["special"] == ["in"]


def test_low_windows_show_some_and_a_button_shows_the_rest(show, page):
    sheet = show(page, width=1280, height=720)
    shown = sheet.locator(".card-insights li:visible").count()
    assert 3 <= shown < sheet.locator(".card-insights li").count()
    sheet.locator(".card-insights .link").click()
    assert sheet.locator(".card-insights li:visible").count() == sheet.locator(".card-insights li").count()


def test_each_document_has_its_own_sentences(show):
    documents = [make_document(i) for i in range(8)]
    loud = np.array(documents[5].diagonal)
    loud[2, 1] = 0.9
    documents[5] = replace(documents[5], diagonal=loud)
    sheet = show(view(documents, precision="f32"), address="d=5")
    own = [text for text in sentences(sheet) if text.startswith("this text")]
    assert any("L2·H1 is where this text differs most: 90%" in text for text in own)
    sheet.keyboard.press("ArrowUp")
    sheet.settle()
    assert "L2·H1 is where this text differs most: 90%" not in " ".join(sentences(sheet))


def test_hostile_names_in_sentences_stay_text(show):
    word = "<img src=x onerror=window.hacked=1>a"
    values = np.tile(np.array([0.9, 0.1, 0.8, 0.1], np.float32), (1, 2, 1))
    documents = [Document(f"{word} b", (word, "b", word, "b"), values) for _ in range(3)]
    sheet = show(view(documents, precision="f32"))
    assert "acked=1>a" in " ".join(sentences(sheet))
    assert sheet.evaluate("window.hacked") is None
