"""Everything the original lets one do to a row, and a little more."""

import csv
import io
import json

import numpy as np
import pytest

pytestmark = pytest.mark.browser

PINNED = "pin=L0·H1&pin=L1·H2&pin=L2·H0"


def test_rename_recolour_and_reorder(show, page):
    sheet = show(page, address=PINNED)
    sheet.menu("L1·H2", "Rename")
    sheet.locator("input.row-name").fill("the name head")
    sheet.keyboard.press("Enter")
    sheet.settle()
    sheet.get_by_label("Colour of the name head").evaluate("input => { input.value = '#123456'; input.dispatchEvent(new Event('change')) }")
    sheet.settle()
    sheet.menu("the name head", "Move up")
    assert sheet.row_names() == ["the name head", "L0·H1", "L2·H0"]
    state = sheet.hash()
    assert state["pin"] == ["L1·H2", "L0·H1", "L2·H0"]
    assert json.loads(state["rows"][0]) == {"L1·H2": {"name": "the name head", "color": "#123456"}}


def test_escape_and_an_empty_name_keep_the_old_one(show, page):
    sheet = show(page, address=PINNED)
    for text, key in (("other", "Escape"), ("   ", "Enter")):
        sheet.menu("L0·H1", "Rename")
        sheet.locator("input.row-name").fill(text)
        sheet.keyboard.press(key)
        sheet.settle()
        assert sheet.row_names() == ["L0·H1", "L1·H2", "L2·H0"]


def test_a_row_is_dragged_before_another(show, page):
    sheet = show(page, address=PINNED)
    sheet.locator("tr[data-key='L2·H0'] .row-name").drag_to(sheet.locator("tr[data-key='L0·H1'] .row-name"))
    sheet.settle()
    assert sheet.row_names() == ["L2·H0", "L0·H1", "L1·H2"]


def test_hide_stops_drawing_but_still_counts_and_remove_does_not(show, page, analysis):
    sheet = show(page, address=PINNED)
    sheet.menu("L0·H1", "Hide")
    assert sheet.get_by_role("button", name="1 hidden: show").is_visible()
    diagonal = analysis.documents[0].diagonal.reshape(12, -1).astype(np.float64)
    np.testing.assert_allclose(column(sheet, "mean"), diagonal.mean(0), rtol=1e-6)
    sheet.menu("L0·H1", "Remove")
    assert sheet.row_names() == ["L1·H2", "L2·H0"]
    np.testing.assert_allclose(column(sheet, "mean"), np.delete(diagonal, 1, 0).mean(0), rtol=1e-6)
    sheet.get_by_role("button", name="1 removed row: restore").click()
    sheet.settle()
    np.testing.assert_allclose(column(sheet, "mean"), diagonal.mean(0), rtol=1e-6)


def column(sheet, name):
    rows = list(csv.DictReader(io.StringIO(sheet.download("CSV", inside="Values of this document").decode())))
    sheet.keyboard.press("Escape")
    sheet.settle()
    return np.array([float(row[name]) for row in rows])


def test_aggregates_are_rows_and_never_feed_each_other(show, page, analysis):
    sheet = show(page, address="pin=L0·H1")
    diagonal = analysis.documents[0].diagonal.reshape(12, -1).astype(np.float64)
    before = column(sheet, "std")
    for name in ("mean", "max"):
        sheet.select_option("[aria-label='Add an aggregate as a row']", name)
        sheet.settle()
    assert sheet.row_names() == ["L0·H1", "mean of 12", "max of 12"]
    np.testing.assert_array_equal(column(sheet, "std"), before)
    np.testing.assert_allclose(before, diagonal.std(0, ddof=1), rtol=1e-6)
    sheet.select_option("[aria-label='Add an aggregate as a row']", "every")
    sheet.settle()
    assert len(sheet.row_names()) == 8
    sheet.menu("mean of 12", "Remove")
    assert len(sheet.row_names()) == 7


def test_tint_by_a_row_and_back(show, page):
    sheet = show(page, address=PINNED)
    word = sheet.locator(".token", has_text="pounds")
    before = word.evaluate("e => getComputedStyle(e).backgroundColor")
    sheet.menu("L1·H2", "Tint the text")
    changed = sheet.locator(".token:not(.chip-token)").evaluate_all("list => list.map(e => getComputedStyle(e).backgroundColor)")
    assert sheet.hash()["tint"] == ["L1·H2"]
    sheet.select_option("[aria-label='Tint the text by']", "off")
    sheet.settle()
    assert word.evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"
    sheet.select_option("[aria-label='Tint the text by']", "agg:mean")
    sheet.settle()
    assert word.evaluate("e => getComputedStyle(e).backgroundColor") == before
    assert changed != sheet.locator(".token:not(.chip-token)").evaluate_all("list => list.map(e => getComputedStyle(e).backgroundColor)")


def test_all_vectors_can_be_moved_sorted_and_isolated(show, page):
    sheet = show(page)
    sheet.locator(".card-rows").get_by_role("button", name="all", exact=True).click()
    sheet.settle()
    assert sheet.row_names()[:2] == ["L0·H0", "L0·H1"]
    sheet.menu("L0·H0", "Move down")
    assert sheet.row_names()[:2] == ["L0·H1", "L0·H0"]
    sheet.get_by_role("button", name="undo moves").click()
    sheet.get_by_role("button", name="sort by mean").click()
    sheet.settle()
    values = [float(text) for text in sheet.locator(".rows .value").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    sheet.menu(sheet.row_names()[0], "Isolate")
    assert sheet.get_by_role("button", name="isolated: 1 of 12 ×").is_visible()
    sheet.get_by_role("button", name="isolated: 1 of 12 ×").click()
    sheet.settle()
    assert sheet.get_by_role("button", name="isolated: 1 of 12 ×").count() == 0


def test_no_more_than_eight_rows_are_pinned(show, page):
    sheet = show(page, address="&".join(f"pin=L{i}·H{j}" for i in range(3) for j in range(4)))
    assert len(sheet.row_names()) == 8


def test_strokes_follow_the_choice(show, page):
    sheet = show(page, address=PINNED)
    heights = {}
    for choice in ("off", "pinned", "all"):
        sheet.locator(".card-text").get_by_role("button", name=choice, exact=True).click()
        sheet.settle()
        heights[choice] = sheet.locator(".strip").bounding_box()["height"]
    assert heights["off"] < heights["pinned"] < heights["all"]
    painted = sheet.locator(".strokes").evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v > 0).length"
    )
    assert painted > 1000
