"""Comparing two documents or models, a token in all documents, the card of a head: the script for several documents."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from attviz.errors import ArgumentError, ShapeError
from attviz.records import Document
from attviz.viewer import view

pytestmark = pytest.mark.browser


@pytest.fixture
def tuned(analysis):
    documents = []
    for one in analysis.documents:
        values = np.array(one.diagonal)
        values[2, 1] = np.minimum(1, values[2, 1] + 0.5)
        documents.append(Document(one.text, one.tokens, values, special=one.special, name=one.name))
    return SimpleNamespace(documents=documents, layers=analysis.layers, label_names=None, model_name="tuned-model")


def test_two_models_head_by_head(show, analysis, tuned):
    sheet = show(view({"base": analysis, "tuned": tuned}, precision="f32"))
    assert "L2·H1 changed most" in sheet.locator(".card-insights").inner_text()
    sheet.get_by_role("button", name="L2·H1 changed most").click()
    sheet.settle()
    sheet.settle()
    assert sheet.locator(".card-texts").is_visible()
    first = sheet.locator(".card-changes li").first
    a, b = (one.documents[0].diagonal[2, 1, 1:-1].mean(dtype=np.float64) for one in (analysis, tuned))
    assert first.inner_text().split()[0] == "L2·H1"
    assert float(first.locator(".value").inner_text()) == pytest.approx(b - a, rel=6e-3)
    assert "same tokens" in sheet.locator(".card-pick").inner_text()
    first.hover()
    sheet.settle()
    words = sheet.locator(".card-maps .readout").inner_text().replace(",", "").split()
    assert float(words[2]) == pytest.approx(a, rel=6e-3)
    assert float(words[4]) == pytest.approx(b, rel=6e-3)
    sheet.get_by_role("button", name="swap").click()
    sheet.until("document.querySelector('.card-changes .value').textContent.startsWith('-')")
    assert sheet.hash()["set"] == ["1"]
    assert sheet.hash()["against"] == ["0.0"]


def test_paper_names_the_heads_that_changed(show, analysis, tuned, tmp_path):
    sheet = show(view({"base": analysis, "tuned": tuned}), address="tab=compare")
    sheet.until("document.querySelectorAll('.card-changes li').length === 12")
    (tmp_path / "page.pdf").write_bytes(sheet.pdf(format="A4", print_background=True))
    words = subprocess.run(["pdftotext", tmp_path / "page.pdf", "-"], check=True, capture_output=True, text=True).stdout
    assert {f"L{layer}·H{head}" for layer in range(3) for head in range(4)} <= set(words.split())


def test_heads_whose_change_may_be_chance_are_grey(show, analysis, tuned):
    low, high = np.full((3, 4), -0.1), np.full((3, 4), 0.1)
    low[2, 1], high[2, 1] = 0.4, 0.5
    compared = SimpleNamespace(names=("base", "tuned"), analyses=(analysis, tuned), low=low, high=high, level=0.95)
    sheet = show(view(compared, precision="f32"), address="tab=compare")
    sheet.until("document.querySelectorAll('.card-changes .unsure').length === 11")
    assert sheet.locator(".card-changes li").first.get_attribute("title").endswith("; over all texts 0.400 to 0.500")
    sheet.get_by_role("button", name="L0·H0, uncertain").wait_for()
    sheet.get_by_role("button", name="swap").click()  # the intervals are of the change from the first to the last
    sheet.until("document.querySelectorAll('.card-changes .unsure').length === 0")


def test_two_documents_with_other_words(show, page):
    sheet = show(page, address="tab=compare&against=2.0")
    assert "different tokens" in sheet.locator(".card-pick").inner_text()
    canvas = sheet.locator(".figure.compare canvas").first
    assert canvas.evaluate("c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0)")


def test_sides_that_do_not_fit_are_told(analysis, tuned):
    tuned.documents = tuned.documents[:2]
    with pytest.raises(ShapeError, match=r"'tuned' has 2 documents, the first side 4.*same texts"):
        view({"base": analysis, "tuned": tuned})
    with pytest.raises(ArgumentError, match=r"at least two sides, such as view"):
        view({"base": analysis})
    with pytest.raises(ArgumentError, match=r"'b': needs an Analysis, a Capture, or Documents, got int"):
        view({"a": analysis, "b": 3})


def test_a_token_in_all_documents(show, page, analysis):
    sheet = show(page, address="d=1&t=3")
    word = analysis.documents[1].tokens[3]
    sheet.get_by_role("button", name="this token in all documents").click()
    sheet.until("document.querySelectorAll('.context-line').length > 0")
    places = [(i, t) for i, one in enumerate(analysis.documents) for t, token in enumerate(one.tokens) if token == word]
    values = sorted((analysis.documents[i].diagonal[:, :, t].mean(dtype=np.float64) for i, t in places), reverse=True)
    assert [float(text) for text in sheet.locator(".context-line .value").all_inner_texts()] == pytest.approx(values, rel=6e-3)
    assert set(sheet.locator(".context-line mark").all_inner_texts()) == {word}
    sheet.locator(".context-line").first.click()
    sheet.settle()
    assert sheet.locator(".token.pinned").inner_text() == word


@pytest.mark.parametrize("address", ["d=1&t=3", "pin=L1·H2"])
def test_dialogs_fit_a_phone(show, page, address):
    sheet = show(page, address=address, width=390, height=844)
    if "t=" in address:
        sheet.get_by_role("button", name="this token in all documents").click()
        sheet.until("document.querySelectorAll('.context-line').length > 0")
    else:
        sheet.menu("L1·H2", "About this vector")
        sheet.until("document.querySelector('.head-card') !== null")
    wide, right = sheet.evaluate(
        """() => {
            const body = document.querySelector(".dialog-body"), end = body.getBoundingClientRect().right;
            const outside = [...body.querySelectorAll("*")].filter(one => one.getBoundingClientRect().right > end + 1);
            return [body.scrollWidth - body.clientWidth, outside.map(one => one.className)];
        }"""
    )
    assert (wide, right) == (0, [])


def test_top_tokens_of_all_documents_by_keyboard(show, page, analysis):
    sheet = show(page)
    sheet.get_by_role("group", name="Tokens of").get_by_role("button", name="all").click()
    sheet.select_option("[aria-label='Fewest places']", "1")
    sheet.until("document.querySelector('.top li .note').textContent.includes('×')")
    values: dict[str, list[float]] = {}
    for one in analysis.documents:
        for token, value, special in zip(one.tokens, one.diagonal.mean((0, 1), dtype=np.float64), one.special, strict=True):
            if not special:
                values.setdefault(token, []).append(float(value))
    best = max(values, key=lambda token: np.mean(values[token]))
    first = sheet.locator(".top li").first
    assert first.inner_text().split()[0] == best
    assert float(first.locator(".value").inner_text()) == pytest.approx(np.mean(values[best]), rel=6e-3)
    sheet.locator(".top").focus()
    sheet.keyboard.press("ArrowDown")
    sheet.keyboard.press("Enter")
    sheet.until("document.querySelector('dialog h2') !== null")
    assert sheet.locator("dialog h2").inner_text() == f"“{best}” in all documents"


def test_top_tokens_by_lift_and_with_punctuation(show):
    """Lift is the value times the keys seen, so a longer text ranks higher; punctuation is out until it is asked for."""
    short = Document("alpha , beta", ("alpha", ",", "beta"), np.array([[[0.5, 0.9, 0.4]]], np.float32))
    words = ("gamma", "delta", *[f"w{i}" for i in range(8)])
    long = Document(" ".join(words), words, np.full((1, 1, 10), 0.3, np.float32))
    sheet = show(view([short, long], precision="f32"))
    names = lambda: [text.split()[0] for text in sheet.locator(".top li").all_inner_texts()]  # noqa: E731
    assert names() == ["alpha", "beta"]
    sheet.locator(".card-top .chip").click()
    assert names() == [",", "alpha", "beta"]
    sheet.locator(".card-top .chip").click()
    ranked = sheet.get_by_role("group", name="Ranked by")
    ranked.get_by_role("button", name="lift").click()
    sheet.settle()
    assert [float(text) for text in sheet.locator(".top .value").all_inner_texts()] == pytest.approx([1.5, 1.2], rel=6e-3)
    sheet.get_by_role("group", name="Tokens of").get_by_role("button", name="all").click()
    sheet.select_option("[aria-label='Fewest places']", "1")
    sheet.until("document.querySelectorAll('.top li').length === 12")
    assert float(sheet.locator(".top .value").first.inner_text()) == pytest.approx(3, rel=6e-3)
    assert names()[-2:] == ["alpha", "beta"]
    ranked.get_by_role("button", name="value").click()
    sheet.until("document.querySelector('.top li').textContent.startsWith('alpha')")


def test_the_card_of_a_head(show, page, analysis):
    sheet = show(page, address="pin=L1·H2")
    sheet.menu("L1·H2", "About this vector")
    sheet.until("document.querySelector('.head-card') !== null")
    text = sheet.locator("dialog").inner_text()
    assert "encoder.layer.1.attention" in text
    strongest = max(float(one.diagonal[1, 2, 1:-1].max()) for one in analysis.documents)
    lines = [float(value) for value in sheet.locator("dialog .context-line .value").all_inner_texts()]
    assert lines[0] == pytest.approx(strongest, rel=6e-3)
    sheet.locator("dialog textarea").fill("looks at verbs")
    sheet.locator("dialog textarea").blur()
    sheet.settle()
    assert "looks at verbs" in sheet.hash()["rows"][0]


def test_clusters_order_the_rows_and_draw_their_tree(show):
    rng = np.random.default_rng(0)
    base = rng.random((2, 40)).astype(np.float32)
    kinds = [0, 1, 0, 1, 1, 0]
    values = np.stack([np.clip(base[kind] + 0.02 * rng.random(40), 0, 1) for kind in kinds]).astype(np.float32).reshape(1, 6, 40)
    sheet = show(view(Document("x " * 40, tuple("x" * 40), values), precision="f32"), address="arrange=cluster")
    sheet.get_by_role("group", name="Which vectors").get_by_role("button", name="all").click()
    sheet.settle()
    order = [kinds[int(name.split("H")[1])] for name in sheet.row_names()]
    assert order in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


def test_clusters_of_a_similarity_of_the_readers_own(show):
    values = np.random.default_rng(0).random((1, 4, 12)).astype(np.float32)
    document = Document("x " * 12, ("x",) * 12, values)
    alike = np.eye(4)
    alike[0, 3] = alike[3, 0] = alike[1, 2] = alike[2, 1] = 0.9
    sheet = show(view(document, similarity=alike), address="arrange=cluster")
    sheet.get_by_role("group", name="Which vectors").get_by_role("button", name="all").click()
    sheet.settle()
    order = [int(name.split("H")[1]) for name in sheet.row_names()]
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset((0, 3)), frozenset((1, 2))}
    with pytest.raises(ShapeError, match=r"similarity must be \[num_rows, num_rows\] of the 4 heads shown, layer by layer, got \[2, 2\]"):
        view(document, similarity=alike[:2, :2])
