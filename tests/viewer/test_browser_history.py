"""Back and forward, undo and redo, an address that keeps everything, and a page that is saved with its notes."""

import numpy as np
import pytest

from attviz.records import Document
from attviz.viewer import view

pytestmark = pytest.mark.browser

VIEW = "d=2&special=in&range=corpus&arrange=layer&topBy=lift&rowList=all&pin=L1·H2"
ADDRESS = f"{VIEW}&q=story&outcome=wrong&label=1&class=0&tokens=3~9&loss=~2&sort=mean-"


def test_the_address_keeps_filters_sorts_and_classes(show, page):
    sheet = show(page, address=ADDRESS)
    sheet.keyboard.press("d")  # a change: the page writes its address again
    found = sheet.hash()
    for field in ADDRESS.split("&"):
        name, value = field.split("=")
        if name != "d":  # no document passes these filters, and the open one stays
            assert found[name] == [value]
    assert sheet.locator(".range").evaluate_all("list => list.map(e => e.value)") == ["3", "9", "", "2"]
    assert sheet.locator("[aria-label='Filter by predicted class']").input_value() == "0"


def test_back_forward_undo_and_redo_take_one_step_each(show, page):
    sheet = show(page)
    start = sheet.hash()
    sheet.select_option("[aria-label='Statistic of a cell']", "max")
    sheet.hash()
    sheet.keyboard.press("ArrowDown")
    sheet.hash()
    sheet.go_back()
    sheet.settle()
    assert "d" not in sheet.hash()
    assert sheet.locator("[aria-label='Statistic of a cell']").input_value() == "max"
    sheet.go_forward()
    sheet.settle()
    assert sheet.hash()["d"] == ["1"]
    sheet.keyboard.press("Control+z")
    sheet.keyboard.press("Control+z")
    sheet.settle()
    assert sheet.hash() == start
    assert sheet.locator("[aria-label='Statistic of a cell']").input_value() == "mean"
    sheet.keyboard.press("Control+Shift+z")
    sheet.settle()
    assert sheet.locator("[aria-label='Statistic of a cell']").input_value() == "max"


def test_a_saved_page_opens_as_it_was_left_with_its_notes(show, page):
    sheet = show(page, address="pin=L1·H2&d=1&scale=raw")
    sheet.menu("L1·H2", "Rename")
    sheet.locator("input.row-name").fill("</script><b>verbs")
    sheet.keyboard.press("Enter")
    sheet.settle()
    again = show(sheet.download("HTML", inside="This page as it is now, notes included").decode())
    assert again.row_names() == ["</script><b>verbs"]
    assert again.locator("[aria-label='Scale of colours and strokes']").input_value() == "raw"
    assert again.locator("tr.current").get_attribute("data-document") == "1"


def test_escape_in_the_search_empties_the_filter_too(show, page):
    sheet = show(page)
    sheet.keyboard.press("/")
    sheet.keyboard.type("airline")
    sheet.settle()
    assert sheet.locator("tr[data-document]").count() == 1
    sheet.keyboard.press("Escape")
    sheet.settle()
    assert sheet.locator(".search").input_value() == ""
    assert sheet.locator("tr[data-document]").count() == 4
    assert "q" not in sheet.hash()


@pytest.mark.parametrize("figure", [".figure.series", ".figure.heat"])
def test_a_drag_that_ends_outside_ends(show, page, figure):
    sheet = show(page)
    box = sheet.locator(figure).bounding_box()
    sheet.mouse.move(box["x"] + 90, box["y"] + 40)
    sheet.mouse.down()
    sheet.mouse.move(box["x"] + 150, box["y"] + 60, steps=3)
    sheet.mouse.move(5, 5, steps=3)
    sheet.mouse.up()
    before = sheet.hash()
    sheet.mouse.move(box["x"] + 120, box["y"] + 50, steps=3)  # no button is down: nothing is dragged any more
    sheet.mouse.move(box["x"] + 200, box["y"] + 70, steps=3)
    assert sheet.hash() == before


def test_a_notice_about_a_document_goes_with_it(show):
    missing = Document("a b", ("a", "b"), np.full((1, 2, 2), np.nan, np.float32))
    sheet = show(view([missing, Document("c d", ("c", "d"), np.full((1, 2, 2), 0.5, np.float32))]))
    assert "missing" in sheet.locator(".notice").inner_text()
    sheet.keyboard.press("ArrowDown")
    sheet.settle()
    assert sheet.locator(".notice").count() == 0
