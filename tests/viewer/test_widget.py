import builtins
import json

import pytest

from attviz.errors import MissingExtraError
from attviz.viewer.html import static

MODULE = """<!doctype html><body><div id="cell"></div><script type="module">
import widget from "URL";
const values = VALUES;
const set = (name, value) => { values[name] = value };
window.model = { get: name => values[name], set, save_changes: () => undefined };
widget.render({ model: window.model, el: document.getElementById("cell") });
window.values = values;
</script></body>"""


def test_widget_carries_the_page_and_a_selection(page):
    widget = page.widget()
    assert json.loads(widget._head)["title"] == "tiny-model"
    assert len(widget._chunks) == 4
    assert widget.selection == {}
    widget.close()


def test_without_anywidget_the_cure_is_told(page, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "anywidget":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'attviz\[widget\]'"):
        page.widget()


@pytest.mark.browser
def test_the_widget_draws_itself_and_tells_python_what_is_selected(browser, page, tmp_path):
    import base64

    widget = page.widget()
    url = "data:text/javascript;base64," + base64.b64encode(static("widget.js").encode()).decode()
    values = json.dumps({"_head": widget._head, "_chunks": widget._chunks, "selection": {}}).replace("</", "<\\/")
    (tmp_path / "cell.html").write_text(MODULE.replace("URL", url).replace("VALUES", values), encoding="utf-8")
    widget.close()
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    sheet = context.new_page()
    errors = []
    sheet.on("pageerror", lambda error: errors.append(str(error)))
    sheet.goto((tmp_path / "cell.html").as_uri())
    sheet.locator(".token", has_text="pounds").click()
    sheet.wait_for_function("window.values.selection.token === 3")
    sheet.keyboard.press("d")
    assert sheet.evaluate("window.values.selection") == {"document": 0, "token": 3, "pinned": [], "isolated": None, "hidden": []}
    assert sheet.evaluate("location.hash") == ""
    box = sheet.locator(".figure.series").bounding_box()
    assert box["width"] > 400
    assert errors == []
    context.close()
