"""Whole sets of vectors: hidden, shown, removed and restored in one action, in the file and in the address too."""

import json

import pytest

pytestmark = pytest.mark.browser

NONE_DRAWN = "document.querySelector('.card-rows .readout').textContent.includes('the set is hidden')"


def choose(sheet, item):
    sheet.get_by_role("button", name="All vectors of the set").click()
    sheet.get_by_role("menuitem", name=item, exact=True).click()
    sheet.settle()


def options(sheet):
    return sheet.locator("[aria-label='Token set'] option").all_inner_texts()


@pytest.fixture
def two_sets(show, page, attviz_json):
    """A file whose first document has the sets "set 0" (3 vectors, one of them hidden) and "words" (1 vector)."""
    sheet = show(page)
    sheet.drop("mine.json", attviz_json)
    sheet.titled("mine.json")
    sheet.locator(".card-rows").get_by_role("button", name="all", exact=True).click()
    sheet.settle()
    return sheet


def written(sheet):
    document = json.loads(sheet.download("JSON", inside="This document, as AttViz JSON"))[0]
    sheet.keyboard.press("Escape")
    sheet.settle()
    return [(one["name"], one["visible"], [vector["visible"] for vector in one["attention_vectors"]]) for one in document["sets"]]


def test_a_set_is_hidden_and_shown_in_one_action(two_sets):
    sheet = two_sets
    assert written(sheet) == [("set 0", True, [True, True, False]), ("words", True, [True])]
    choose(sheet, "Hide set 0")
    assert sheet.evaluate(NONE_DRAWN)
    assert sheet.locator(".rows .hidden-row").count() == 3
    assert options(sheet) == ["set 0 (hidden)", "words"]
    assert written(sheet) == [("set 0", False, [True, True, False]), ("words", True, [True])]
    assert sheet.hash()["sets"] == ["0h"]
    sheet.get_by_role("button", name="the set is hidden: show").click()
    sheet.settle()
    assert sheet.locator(".rows .hidden-row").count() == 1  # what was hidden by itself stays so
    assert options(sheet) == ["set 0", "words"]


def test_a_set_is_removed_and_restored_in_one_action(two_sets):
    sheet = two_sets
    choose(sheet, "Remove set 0")
    assert sheet.row_names() == ["only"]
    assert sheet.locator(".token").all_inner_texts() == ["wmc", "profits", "up"]
    assert options(sheet) == ["words"]
    assert written(sheet) == [("words", True, [True])]
    choose(sheet, "Remove words")
    assert sheet.row_names() == []
    sheet.get_by_role("button", name="2 removed sets: restore").click()
    sheet.settle()
    assert sheet.row_names() == ["only"]
    assert options(sheet) == ["set 0", "words"]


def test_the_address_brings_sets_back_as_they_were(show, page):
    sheet = show(page, address="sets=0h&sets=99r&sets=x")
    assert sheet.evaluate(NONE_DRAWN)
    sheet.keyboard.press("d")
    sheet.settle()
    assert sheet.hash()["sets"] == ["0h", "99r"]
