"""The page in a notebook: frame and widget follow the theme around them, and two of them stand on one sheet."""

import base64
import json

import numpy as np
import pytest

from attviz.records import Document
from attviz.viewer import view
from attviz.viewer.pairs import PairLayer

pytestmark = pytest.mark.browser

SHEET = """<!doctype html><body BODY><div id="a"></div><div id="b"></div><script type="module">
import widget from "URL";
window.values = {};
for (const id of ["a", "b"]) {
  const values = VALUES;
  const set = (name, value) => { values[name] = value };
  widget.render({ model: { get: name => values[name], set, save_changes: () => undefined }, el: document.getElementById(id) });
  window.values[id] = values;
}
</script></body>"""


@pytest.fixture
def paired():
    rng = np.random.default_rng(0)
    words = ("the", "old", "bridge", "over", "the", "river")
    query, key = rng.normal(size=(2, 2, 3, len(words), 8)).astype(np.float32)
    layers = [PairLayer(f"layer {i}", query[i], key[i], scale=0.35) for i in range(2)]
    return view([Document(" ".join(words), words, rng.random((2, 3, len(words))).astype(np.float32))], pairs=[layers])


@pytest.fixture
def sheet(browser):
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 1900}, color_scheme="light")
    page = context.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert faults == []


def until(page, expression, value):
    for _ in range(100):
        if page.evaluate(expression) == value:
            return
        page.wait_for_timeout(40)
    assert page.evaluate(expression) == value


@pytest.mark.parametrize(
    ("host", "other"),
    [
        ({"data-jp-theme-light": "false"}, {"data-jp-theme-light": "true"}),
        ({"class": "vscode-dark"}, {"class": "vscode-light"}),
        ({"class": "vscode-high-contrast"}, {"class": "vscode-light"}),
    ],
)
def test_the_frame_follows_the_notebook_without_a_look_at_it(sheet, paired, tmp_path, host, other):
    (tmp_path / "cell.html").write_text(f"<!doctype html><body>{paired._repr_html_()}</body>", encoding="utf-8")
    sheet.goto((tmp_path / "cell.html").as_uri())
    frame = sheet.frames[1]
    frame.wait_for_selector(".token")
    theme = "document.getElementById('attviz-root').dataset.theme"
    until(frame, theme, "light")
    for attributes, expected in ((host, "dark"), (other, "light")):
        for name, value in attributes.items():
            sheet.evaluate("([name, value]) => document.body.setAttribute(name, value)", [name, value])
        until(frame, theme, expected)
    frame.get_by_role("button", name="Pairs", exact=True).click()
    frame.wait_for_selector(".pairs-list li")


def test_the_text_alone_follows_the_notebook_beside_a_whole_page(sheet, paired, tmp_path):
    text = view([Document("a b c", ("a", "b", "c"), np.full((1, 2, 3), 0.4, np.float32))], show="text")
    cells = f"<!doctype html><body data-jp-theme-light='false'>{paired._repr_html_()}{text._repr_html_()}</body>"
    (tmp_path / "cell.html").write_text(cells, encoding="utf-8")
    sheet.goto((tmp_path / "cell.html").as_uri())
    heights = sheet.evaluate("[...document.querySelectorAll('iframe')].map(one => one.offsetHeight)")
    assert heights == [880, 360]
    for frame in sheet.frames[1:]:
        frame.wait_for_selector(".token")
        until(frame, "document.getElementById('attviz-root').dataset.theme", "dark")


def test_a_notebook_without_a_known_theme_leaves_it_to_the_system(browser, paired, tmp_path):
    (tmp_path / "cell.html").write_text(f"<!doctype html><body>{paired._repr_html_()}</body>", encoding="utf-8")
    context = browser.new_context(offline=True, color_scheme="dark")
    page = context.new_page()
    page.goto((tmp_path / "cell.html").as_uri())
    page.frames[1].wait_for_selector(".token")
    until(page.frames[1], "document.getElementById('attviz-root').dataset.theme", "dark")
    context.close()


# What VS Code 1.100 gives the webview of a notebook, with 'self' for its own origin.
VSCODE = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' https: http: data:; font-src 'self' https:; connect-src https:; child-src https: data:;"
)


def test_the_frame_works_under_the_policy_of_vscode(sheet, paired, tmp_path):
    policy = f'<meta http-equiv="Content-Security-Policy" content="{VSCODE}">'
    (tmp_path / "cell.html").write_text(f"<!doctype html>{policy}<body class='vscode-dark'>{paired._repr_html_()}</body>", encoding="utf-8")
    sheet.goto((tmp_path / "cell.html").as_uri())
    frame = sheet.frames[1]
    frame.locator(".token", has_text="bridge").click()
    frame.get_by_role("button", name="Pairs", exact=True).click()
    frame.get_by_role("button", name="Model", exact=True).click()
    until(frame, "document.querySelector('.pairs-model-part')?.dataset.done", "6")


def test_two_widgets_on_a_sheet_tell_what_each_selected_and_pinned(sheet, paired, tmp_path):
    widget = paired.widget()
    url = "data:text/javascript;base64," + base64.b64encode(widget._esm.encode()).decode()
    carried = {"_head": widget._head, "_chunks": widget._chunks, "_parts": widget._parts, "_style": widget._style, "selection": {}}
    values = json.dumps(carried).replace("</", "<\\/")
    text = SHEET.replace("BODY", 'data-jp-theme-light="true"').replace("URL", url).replace("VALUES", values)
    (tmp_path / "cell.html").write_text(text, encoding="utf-8")
    widget.close()
    sheet.goto((tmp_path / "cell.html").as_uri())
    first, second = sheet.locator("#a .attviz-widget"), sheet.locator("#b .attviz-widget")
    first.locator(".token", has_text="bridge").click()
    heat = first.locator(".figure.heat").bounding_box()
    sheet.mouse.click(heat["x"] + 80, heat["y"] + 40)
    until(sheet, "window.values.a.selection.token", 2)
    until(sheet, "window.values.a.selection.pinned.length > 0", True)
    assert sheet.evaluate("window.values.a.selection.pinned[0]").startswith("L")
    assert sheet.evaluate("window.values.b.selection.token") is None
    second.get_by_role("button", name="Pairs", exact=True).click()
    second.locator(".pairs-list li").first.wait_for()
    second.locator(".pairs-head").nth(1).click()
    second.locator(".pairs-pair").first.click()
    until(sheet, "window.values.b.selection.token !== null", True)
    assert second.locator(".pairs-side h3").first.inner_text() == "L0·H1"
    assert first.locator(".page-grid").is_visible()
    assert sheet.evaluate("[...document.querySelectorAll('#a, #b')].map(e => e.shadowRoot.querySelector('.attviz').dataset.theme)") == [
        "light",
        "light",
    ]
    sheet.evaluate("document.body.dataset.jpThemeLight = 'false'")
    until(sheet, "document.querySelector('#b').shadowRoot.querySelector('.attviz').dataset.theme", "dark")
    until(sheet, "document.querySelector('#a').shadowRoot.querySelector('.attviz').dataset.theme", "dark")
