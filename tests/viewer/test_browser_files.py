"""Files dropped on the page: the original tool's open, broken ones are told with the path of the fault."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from attviz.records import Document
from attviz.viewer import view

pytestmark = pytest.mark.browser

ORIGINAL = Path(__file__).parents[3] / "shared" / "data" / "bbc" / "example_bbc_explanations.json"
VECTOR = {"name": "v", "vectors": [0.1, 0.2]}


def without_sums(html):
    """A page of an attviz that wrote no checksums."""
    return re.sub(r' data-sum="[0-9a-f]{8}"', "", html)


def document(**more):
    return {"text": "a b", "sets": [{"tokens": ["a", "b"], "attention_vectors": [VECTOR]}], **more}


def test_a_file_of_the_original_form_opens(show, page, attviz_json):
    sheet = show(page)
    sheet.drop("mine.json", attviz_json)
    sheet.titled("mine.json · 3 vectors · 2 documents")
    assert sheet.locator(".token").all_inner_texts() == ["w", "mc", "profits", "up"]
    assert sheet.locator("[aria-label='Tint the text by']").input_value() == "s0:1"
    assert sheet.locator(".card-class .classes").inner_text().split("\n")[:2] == ["business", "70%"]
    sheet.locator(".card-rows").get_by_role("button", name="all", exact=True).click()
    sheet.settle()
    assert sheet.row_names() == ["0", "1", "2"]
    assert sheet.get_by_label("Colour of 1", exact=True).input_value() == "#ff0000"
    assert sheet.get_by_role("button", name="1 hidden: show").is_visible()
    sheet.select_option("[aria-label='Token set']", "1")
    sheet.settle()
    assert sheet.locator(".token").all_inner_texts() == ["wmc", "profits", "up"]


def test_the_older_form_with_numbered_keys_opens(show, page):
    sheet = show(page)
    sheet.drop("old.json", json.dumps({"1": document(text="second"), "0": document(text="first"), "10": document(text="third")}))
    sheet.titled("old.json")
    assert [text.strip() for text in sheet.locator("tr[data-document] .c-text").all_inner_texts()] == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "bad.json is no JSON"),
        ("[" * 100_000, "bad.json is no JSON"),
        ("[]", "bad.json holds no document."),
        ("3", "the file: an object is expected, found number 3."),
        ('{"a": 1}', 'an AttViz JSON is a list of documents, or an object with the keys "0", "1", ...'),
        (json.dumps([document(), 7]), "[1]: an object is expected, found number 7."),
        (json.dumps([document(sets=3)]), "[0].sets: a list is expected, found number 3."),
        (json.dumps([{"sets": [{"tokens": ["a", 1]}]}]), "[0].sets[0].tokens[1]: a string is expected, found number 1."),
        (
            json.dumps([{"sets": [{"tokens": ["a"], "attention_vectors": [VECTOR]}]}]),
            "[0].sets[0].attention_vectors[0].vectors: 2 values for 1 tokens",
        ),
        (
            json.dumps([{"sets": [{"tokens": ["a", "b"], "attention_vectors": [{"vectors": [0.1, "abc"]}]}]}]),
            "[0].sets[0].attention_vectors[0].vectors[1]: not a number: 'abc'.",
        ),
        (
            json.dumps([{"sets": [{"tokens": ["a"], "attention_vectors": [{"vectors": [1.5]}]}]}]),
            "[0].sets[0].attention_vectors[0].vectors[0]: must be from 0 to 1, got 1.5.",
        ),
        (json.dumps([document(output_activations=[{"name": "x", "value": None}])]), "[0].output_activations[0].value: not a number: null."),
    ],
)
def test_a_broken_file_is_told_and_the_page_stays(show, page, content, message):
    sheet = show(page)
    sheet.drop("bad.json", content)
    alert = sheet.get_by_role("alert")
    alert.wait_for()
    assert message in alert.inner_text()
    assert sheet.locator(".token").count() == 10
    sheet.get_by_role("button", name="Close this message").click()
    assert alert.count() == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([document(sets=[])], "has no tokens"),
        ([{"text": "a", "sets": [{"tokens": ["a"], "attention_vectors": []}]}], "has tokens but no vectors"),
    ],
)
def test_a_document_without_vectors_is_told(show, page, content, message):
    sheet = show(page)
    sheet.drop("thin.json", json.dumps(content))
    sheet.wait_for_selector(".notice")
    assert message in sheet.locator(".notice").inner_text()


def test_a_damaged_page_says_so(show, page):
    cut = page.html.replace('id="attviz-doc-0"', 'id="other"')
    sheet = show(cut)
    assert "attviz-doc-0 is missing" in sheet.locator(".notice.error").inner_text()
    sheet = show(without_sums(page.html).replace('{"format":1', '{"format":9'))
    assert sheet.locator(".boot").inner_text() == "This page holds format 9; its script reads format 1."


@pytest.mark.parametrize(("name", "place"), [("head", ".boot"), ("doc-0", ".notice.error"), ("insights-0", ".boot")])
def test_a_changed_byte_of_the_data_is_told(show, name, place):
    values = np.random.default_rng(0).random((4, 2, 3, 6))
    html = view([Document(f"text {n}", tuple("abcdef"), one) for n, one in enumerate(values)]).html
    start = html.index(f'id="attviz-{name}">') + len(f'id="attviz-{name}">') + 9
    sheet = show(html[:start] + ("x" if html[start] != "x" else "y") + html[start + 1 :])
    assert f"attviz-{name} is not as it was written. Make the page again." in sheet.locator(place).first.inner_text()


if ORIGINAL.exists():  # a file of its users, beside the project and never part of it

    def test_the_original_example_opens(show, page):
        sheet = show(page)
        sheet.drop("bbc.json", ORIGINAL.read_text(encoding="utf-8"))
        sheet.titled("bbc.json · 11 vectors · 98 documents")
        assert sheet.locator(".card-class .best").inner_text().startswith("business")


def test_an_open_file_replaces_the_view_of_attviz_documents(show):
    from attviz.records import AttvizDocument, AttvizSet, AttvizVector

    sheet = show(view(AttvizDocument("x", (AttvizSet(("x",), (AttvizVector((0.5,), "n"),)),))))
    with sheet.expect_file_chooser() as chooser:
        sheet.locator(".page-header button", has_text="Open").click()
    chooser.value.set_files({"name": "chosen.json", "mimeType": "application/json", "buffer": json.dumps([document()]).encode()})
    sheet.titled("chosen.json")
