"""A second script brings a tab of its own; a page without data for it carries nothing of it."""

import pytest

from attviz.errors import ArgumentError
from attviz.viewer import Page, html, view
from attviz.viewer.payload import Payload

pytestmark = pytest.mark.browser

# What src/pairs builds into, as small as it can be: it registers, shows its part, and follows the document.
PROBE = """(() => {
  const element = document.createElement("main");
  const make = (context) => ({ element, update: () => {
    const { document, extra } = context.store.state;
    element.textContent = JSON.stringify([document, context.collection.part("probe", document), extra]);
  } });
  (globalThis.attvizExtensions ??= []).push({ name: "probe", title: "Probe", make });
})();"""


@pytest.fixture
def probed(page: Page, monkeypatch: pytest.MonkeyPatch) -> Page:
    shipped = html.static
    monkeypatch.setattr(html, "static", lambda name: PROBE if name == "probe.js" else shipped(name))
    page._payload.attach("probe", 0, {"rows": [1, 2]})
    return page


def test_an_extension_has_a_tab_its_parts_and_a_place_in_the_address(show, probed):
    sheet = show(probed, address="x=probe.head%3D3")
    assert sheet.locator(".page-grid").is_visible()
    sheet.get_by_role("button", name="Probe", exact=True).click()
    sheet.settle()
    assert sheet.locator("main:not(.page-grid)").inner_text() == '[0,{"rows":[1,2]},{"probe.head":"3"}]'
    assert sheet.locator(".page-grid").is_hidden()
    assert sheet.hash() == {"tab": ["probe"], "x": ["probe.head=3"]} | {key: value for key, value in sheet.hash().items() if key == "pin"}
    sheet.keyboard.press("ArrowDown")
    sheet.settle()
    assert sheet.locator("main:not(.page-grid)").inner_text().startswith("[1,null")
    sheet.get_by_role("button", name="Own position", exact=True).click()
    sheet.settle()
    assert sheet.locator(".page-grid").is_visible()


def test_without_its_data_an_extension_leaves_no_trace(show, page):
    sheet = show(page, address="tab=probe")
    assert sheet.locator(".page-grid").is_visible()
    assert sheet.locator(".tabs button").all_inner_texts() == ["Own position", "Compare"]
    assert page.html.count("<script>") == 2  # its own, and the one for several documents


def test_a_page_of_one_document_carries_one_script(show, analysis):
    one = view(analysis.documents[0])
    assert one.html.count("<script>") == 1
    sheet = show(one)
    assert sheet.locator(".tabs").is_hidden()


def test_parts_count_for_the_size_of_the_page(analysis):
    payload = view(analysis, max_bytes=40_000)._payload
    with pytest.raises(ArgumentError, match=r"documents=.*layers=.*heads="):
        payload.attach("probe", 0, "x" * 40_000)
    assert isinstance(payload, Payload)
