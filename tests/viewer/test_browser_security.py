"""Hostile text stays text, the policy of the page holds, and nothing is asked of a network."""

import json

import numpy as np
import pytest

from attviz.records import AttvizDocument, AttvizSet, AttvizVector, Document
from attviz.viewer import view

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    '"><svg onload=window.hacked=1>',
    "javascript:window.hacked=1",
    "${window.hacked=1}",
    '=HYPERLINK("http://evil.example")',
    "\u202egnp.exe\u202c",
    "zero\u200bwidth\u2066x\u2069",
    "a\u0000b\u0007\u001b[31m",
    "lone\ud800surrogate",
    "\u2028line\u2029",
    "__proto__",
    "constructor",
)


def hostile_page():
    count = len(HOSTILE)
    vectors = tuple(AttvizVector(tuple(np.linspace(0, 1, count)), text, "red;background:url(http://evil.example)") for text in HOSTILE)
    sets = (AttvizSet(HOSTILE, vectors, HOSTILE[0]), AttvizSet(("x",), (AttvizVector((0.5,), HOSTILE[1]),), HOSTILE[1]))
    scores = tuple((text, 1 / count) for text in HOSTILE)
    return view([AttvizDocument(" ".join(HOSTILE), sets, text, scores) for text in HOSTILE], title=HOSTILE[0])


def test_hostile_strings_stay_text_everywhere(show):
    sheet = show(hostile_page(), address="strokes=all&pin=agg:mean")
    sheet.locator(".card-rows").get_by_role("button", name="all", exact=True).click()
    sheet.get_by_role("button", name="details").click()
    sheet.keyboard.press("Escape")
    sheet.keyboard.press("t")
    sheet.keyboard.press("Escape")
    sheet.locator(".search").fill("<img src=x onerror")
    sheet.settle()
    assert sheet.locator("tr[data-document] mark").first.inner_text() == "<img src=x onerror"
    sheet.locator("tr[data-document='1'] .open").click()
    sheet.settle()
    svg = sheet.download("SVG", inside="Text").decode()
    assert "<script" not in svg
    assert "<img" not in svg
    assert "&lt;img src=x onerror" in svg
    assert sheet.evaluate("window.hacked") is None
    assert sheet.evaluate("document.querySelectorAll('img, iframe, object, embed, svg, base, form').length") == 0
    assert sheet.evaluate("[...document.querySelectorAll('*')].some(e => [...e.attributes].some(a => a.name.startsWith('on')))") is False
    assert sheet.evaluate("Object.prototype.name") is None


def test_invisible_and_turning_characters_are_shown(show):
    tokens = ("zero\u200bwidth", "\u202egnp.exe", "a\tb", "x\u2028y")
    sheet = show(view(Document(" ".join(tokens), tokens, np.full((1, 1, 4), 0.5, np.float32))))
    assert sheet.locator(".token").all_inner_texts() == ["zero‹U+200B›width", "‹U+202E›gnp.exe", "a⇥b", "x‹U+2028›y"]


def test_csv_cells_that_begin_a_formula_are_guarded(show):
    tokens = ("=1+1", "+1", "-1", "@SUM", 'a"b,c', "plain")
    sheet = show(view(Document(" ".join(tokens), tokens, np.full((1, 1, 6), 0.5, np.float32))))
    lines = sheet.download("CSV", inside="Values of this document").decode().splitlines()[1:]
    assert [line.split(",", 1)[1][:9] for line in lines] == [
        '"\'=1+1",0',
        '"\'+1",0.5',
        '"\'-1",0.5',
        '"\'@SUM",0',
        '"a""b,c",',
        "plain,0.5",
    ]


def test_a_hostile_file_dropped_on_the_page_stays_text(show, page):
    sheet = show(page)
    vectors = [{"name": HOSTILE[1], "color": "javascript:alert(1)", "vectors": [0.5, 0.25]}]
    document = {
        "text": HOSTILE[0],
        "name": HOSTILE[2],
        "output_activations": [{"name": HOSTILE[1], "value": 1}],
        "sets": [{"tokens": [HOSTILE[0], HOSTILE[1]], "attention_vectors": vectors}],
    }
    sheet.drop("<img src=x onerror=window.hacked=1>.json", json.dumps([document]))
    sheet.until("document.querySelectorAll('.token').length === 2")
    assert sheet.locator(".token").last.inner_text() == HOSTILE[1]
    assert sheet.evaluate("window.hacked") is None
    assert sheet.evaluate("document.querySelectorAll('img').length") == 0


@pytest.mark.parametrize(
    "attack",
    [
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)",
        "const s = document.createElement('script'); s.src = 'data:text/javascript,window.hacked=1'; document.body.append(s)",
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')",
        "document.body.insertAdjacentHTML('beforeend', '<iframe srcdoc=\"<script>parent.hacked=1</script>\"></iframe>')",
        "const b = document.createElement('base'); b.href = 'http://evil.example/'; document.head.append(b)",
        "document.body.insertAdjacentHTML('beforeend', '<style>body{background:url(http://evil.example/x)}</style>')",
    ],
)
def test_the_policy_blocks_what_an_injection_would_try(browser, page, tmp_path, attack):
    context = browser.new_context(offline=True)
    sheet = context.new_page()
    requests = []
    sheet.on("request", lambda request: requests.append(request.url))
    refusals = []
    sheet.on("console", lambda message: refusals.append(message.text) if "Content Security Policy" in message.text else None)
    sheet.goto(page.save(tmp_path / "page.html").as_uri())
    sheet.wait_for_selector(".token")
    sheet.evaluate(f"() => {{ {attack} }}")
    sheet.wait_for_timeout(120)
    assert sheet.evaluate("window.hacked") is None
    assert refusals
    assert [url for url in requests if "evil" in url] == []
    context.close()


def test_the_page_itself_cannot_reach_the_network_or_evaluate_text(browser, page, tmp_path):
    """From a script of the page's own, as an evaluate from outside escapes the policy."""
    import base64
    import hashlib
    import re

    probe = (
        "window.seen = {}; try { window.seen.eval = eval('1') } catch (e) { window.seen.eval = e.name }"
        "fetch('http://evil.example/').then(() => window.seen.fetch = 'ok', e => window.seen.fetch = e.name);"
        "try { new Worker('data:text/javascript,1'); window.seen.worker = 'made' } catch (e) { window.seen.worker = e.name }"
    )
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    text = re.sub(r"script-src ", f"script-src 'sha256-{digest}' ", page.html, count=1).replace(
        "</body>", f"<script>{probe}</script></body>"
    )
    (tmp_path / "probe.html").write_text(text, encoding="utf-8")
    context = browser.new_context(offline=True)
    sheet = context.new_page()
    violations = []
    sheet.on("console", lambda message: violations.append(message.text))
    sheet.goto((tmp_path / "probe.html").as_uri())
    sheet.wait_for_timeout(300)
    assert sheet.evaluate("window.seen.eval") == "EvalError"
    assert sheet.evaluate("window.seen.fetch") == "TypeError"
    assert any("connect-src" in text or "default-src" in text for text in violations)
    assert any("orker" in text for text in violations) or sheet.evaluate("window.seen.worker") != "made"
    context.close()


def test_a_hostile_address_does_nothing(show, page):
    edits = json.dumps({"__proto__": {"name": "x"}, "L0·H0": {"name": "<b>", "color": "red;}*{x:y", "hidden": "yes"}})
    from urllib.parse import quote

    sheet = show(page, address=f"d=99999&set=7&t=-1&tint=%3Cimg%3E&pin=__proto__&pin=L0%C2%B7H0&w=9-2&scale=evil&rows={quote(edits)}")
    assert sheet.row_names() == ["<b>"]
    assert sheet.locator("tr.current .open").inner_text() == "3"
    assert sheet.evaluate("({}).name") is None
