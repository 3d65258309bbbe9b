"""The list of documents, at four and at ten thousand."""

import pytest

from attviz.records import AttvizDocument, AttvizSet, AttvizVector
from attviz.viewer import view

pytestmark = pytest.mark.browser


def listed(sheet):
    return [int(text) for text in sheet.locator("tr[data-document] .open").all_inner_texts()]


def test_search_marks_and_filters(show, page):
    sheet = show(page)
    sheet.keyboard.press("/")
    sheet.keyboard.type("IN")
    sheet.settle()
    assert listed(sheet) == [0, 1]
    assert set(sheet.locator("tr[data-document] mark").all_inner_texts()) == {"in"}
    sheet.locator(".search").fill("")
    sheet.get_by_role("button", name="wrong", exact=True).click()
    sheet.settle()
    assert listed(sheet) == [3]
    sheet.get_by_role("button", name="more filters").click()
    sheet.get_by_role("button", name="clear filters").click()
    sheet.select_option("[aria-label='Filter by label']", "1")
    sheet.settle()
    assert listed(sheet) == [1, 3]
    sheet.get_by_label("highest loss").fill("1")
    sheet.settle()
    assert listed(sheet) == [1]
    sheet.get_by_role("button", name="clear filters").click()
    sheet.get_by_label("most tokens").fill("8")
    sheet.settle()
    assert listed(sheet) == [3]
    assert sheet.get_by_text("1 of 4 documents").is_visible()


def test_columns_sort_both_ways(show, page):
    sheet = show(page)
    sheet.get_by_role("button", name="loss", exact=True).click()
    sheet.settle()
    assert listed(sheet)[-1] == 3
    sheet.get_by_role("button", name="loss ↑").click()
    sheet.settle()
    assert listed(sheet)[0] == 3
    assert sheet.locator("th[aria-sort=descending]").inner_text().startswith("loss")


def test_opening_a_document_changes_every_view(show, page):
    sheet = show(page)
    sheet.locator("tr[data-document='3']").click()
    sheet.wait_for_selector(".token >> text=chip")
    assert sheet.locator(".card-text .note").first.inner_text() == "story 3 · 8 tokens"
    assert sheet.locator("tr.current .open").inner_text() == "3"
    assert "✗" in sheet.locator(".card-class").inner_text()
    sheet.keyboard.press("ArrowUp")
    sheet.wait_for_selector(".token >> text=federer")
    assert sheet.hash()["d"] == ["2"]


def test_ten_thousand_documents_draw_a_few_rows(show):
    def one(index):
        return AttvizDocument(f"text {index}", (AttvizSet(("a", "b"), (AttvizVector((0.5, 0.25)),)),), name=f"n{index}")

    sheet = show(view([one(i) for i in range(10_000)]))
    assert sheet.get_by_text("10000 of 10000 documents").is_visible()
    assert sheet.locator("tr[data-document]").count() < 60
    sheet.locator(".documents-scroll").evaluate("e => e.scrollTop = e.scrollHeight")
    sheet.wait_for_selector("tr[data-document='9999']")
    sheet.locator("tr[data-document='9999'] .open").click()
    sheet.until("document.querySelector('.card-text .note').textContent.startsWith('n9999')")
    sheet.locator(".search").fill("text 77")
    sheet.settle()
    assert sheet.get_by_text("111 of 10000 documents").is_visible()
