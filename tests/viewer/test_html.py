import base64
import hashlib
import html
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.viewer.html import csp, notebook_frame, page_parts, script_json, static

anything = st.recursive(
    st.none() | st.booleans() | st.text(st.characters()) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(anything)
@settings(max_examples=50, deadline=None)
def test_script_json_reads_back_and_cannot_leave_its_element(value):
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_script_json_writes_lone_surrogates_as_escapes():
    text = script_json("a\ud800b")
    assert text == '"a\\ud800b"'
    text.encode("utf-8")


def test_policy_carries_the_hashes_of_what_is_inlined():
    document = "".join(page_parts("t", "{}", []))
    style = re.search(r"<style>(.*?)</style>", document, re.S)
    script = re.search(r"<script>(.*?)</script>", document, re.S)
    for found, directive in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in document
    assert csp([""], [""]).startswith("default-src 'none'; ")
    assert "unsafe" not in csp(["a"], ["b"])
    assert csp(["a", "b"], ["c"]).split("; ")[1].count("sha256-") == 2


def test_title_is_text():
    document = "".join(page_parts("</title><script>alert(1)</script>", "{}", []))
    assert "<script>alert" not in document
    assert "<title>&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;</title>" in document


def test_notebook_frame_is_sandboxed_and_holds_the_document():
    frame = notebook_frame('<p title="a">&amp;</p>', 500)
    assert 'sandbox="allow-scripts allow-downloads"' in frame
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == '<p title="a">&amp;</p>'


@pytest.mark.parametrize(
    "word",
    [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "sendBeacon",
        "import(",
        "localStorage",
        "http://",
        "</script",
    ],
)
def test_the_built_script_does_not_contain(word):
    script = static("page.js").replace("http://www.w3.org/2000/svg", "")
    assert word not in script


def test_the_built_script_keeps_its_budget_and_is_ascii():
    script = static("page.js")
    assert script.isascii()
    assert len(script) <= 130_000
