"""The page fits: nothing leaves its card, lies over another or is cut without a tooltip, in every window, light and dark."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from attviz.records import Document
from attviz.viewer import view

pytestmark = pytest.mark.browser

WINDOWS = ((1280, 720), (1366, 650), (1440, 760), (1536, 730), (1440, 900), (2560, 1440), (768, 1024), (390, 844))
FAULTS = Path(__file__).with_name("layout.js").read_text(encoding="utf-8")
LONG = "a class whose name nobody would call short, and then some"


@pytest.fixture(scope="module")
def corpus() -> SimpleNamespace:
    """Eight documents of very different lengths, long names, several classes, 12 layers x 12 heads."""
    rng = np.random.default_rng(3)
    documents = []
    for i in range(8):
        words = [f"word{j}" if j % 7 else "internationalisation" for j in range((6, 240)[i % 2])]
        tokens = ("[CLS]", *words, "[SEP]")
        values = rng.beta(0.5, 8, (12, 12, len(tokens))).astype(np.float32)
        shares = rng.dirichlet(np.ones(5))
        name = f"the document with the number {i} and a name that goes on and on and on and on"
        documents.append(
            Document(" ".join(words), tokens, values, name=name, label=i % 5, prediction=int(shares.argmax()), probabilities=shares)
        )
    layers = tuple(f"encoder.layer.{i}.attention.self" for i in range(12))
    names = ("news", LONG, "sport", "art", "odd")
    return SimpleNamespace(
        documents=documents, layers=layers, label_names=names, model_name="an-organisation/a-model-with-a-rather-long-name"
    )


def wide(num_layers: int, num_heads: int) -> Document:
    values = np.random.default_rng(0).beta(0.5, 8, (num_layers, num_heads, 24)).astype(np.float32)
    return Document("x " * 24, ("x",) * 24, values)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_leaves_its_card_or_lies_over_another(show, corpus, theme):
    sheet = show(view({"base": corpus, "tuned": corpus}, precision="u8"), color_scheme=theme)
    pinned = "&".join(f"pin=L{i}·H{i}" for i in range(5))
    for address in (f"d=1&{pinned}&t=3", "d=0&folded=", "tab=compare"):
        for width, height in WINDOWS:
            sheet.set_viewport_size({"width": width, "height": height})
            sheet.evaluate(f"location.hash = {address!r}")
            sheet.settle()
            sheet.settle()
            assert sheet.evaluate(FAULTS) == [], f"{address} at {width} x {height}"


def test_the_matrix_gets_two_pixels_a_row_in_every_window(show, corpus):
    sheet = show(view(corpus, precision="u8"), address="d=1")
    for width, height in WINDOWS:
        sheet.set_viewport_size({"width": width, "height": height})
        sheet.settle()
        sheet.settle()
        rows = sheet.evaluate(  # all in one call: a call for each pixel takes minutes on playwright 1.45
            """() => {
                const figure = document.querySelector(".figure.series");
                const box = figure.getBoundingClientRect();
                const rows = new Set();
                for (let y = 40; y < box.height - 39; y++) {
                    figure.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + y }));
                    const told = document.querySelector(".tip").innerText.split("\\n");
                    if (told.length > 1) rows.add(told[1].split(" ")[0]);
                }
                return [...rows];
            }"""
        )
        assert len(rows) == 144, f"{width} x {height}: {len(rows)} of 144 rows can be pointed at"


def test_cards_fold_and_the_text_can_be_dragged(show, corpus):
    sheet = show(view(corpus, precision="u8"), address="d=1")
    before = sheet.locator(".figure.series").bounding_box()["y"]
    sheet.get_by_role("button", name="Fold Text").click()
    sheet.settle()
    sheet.settle()
    assert not sheet.locator(".strip").is_visible()
    assert sheet.locator(".figure.series").bounding_box()["y"] < before - 60
    assert sheet.hash()["folded"] == ["text"]
    sheet.get_by_role("button", name="Fold Text").click()
    sheet.settle()
    box = sheet.locator(".strip-scroll").bounding_box()
    corner = (box["x"] + box["width"] - 4, box["y"] + box["height"] - 4)
    sheet.mouse.move(*corner)
    sheet.mouse.down()
    sheet.mouse.move(corner[0], corner[1] + 90, steps=4)
    sheet.mouse.up()
    sheet.settle()
    sheet.settle()
    assert sheet.locator(".strip-scroll").bounding_box()["height"] == pytest.approx(box["height"] + 90, abs=6)


def test_an_image_leaves_the_matrix_its_rows_in_every_window(show):
    values = np.random.default_rng(0).beta(0.5, 8, (12, 12, 197)).astype(np.float32)
    special = np.arange(197) == 0
    document = Document("a picture", ("[CLS]", *[f"p{i}" for i in range(196)]), values, grid=(14, 14), special=special)
    sheet = show(view(document, images=[np.full((224, 224, 3), 200, np.uint8)]))
    for width, height in WINDOWS:
        sheet.set_viewport_size({"width": width, "height": height})
        sheet.settle()
        sheet.settle()
        assert sheet.evaluate(FAULTS) == [], f"{width} x {height}"
        # 144 rows of two pixels, the series above them, the axis below
        assert sheet.locator(".figure.series").bounding_box()["height"] >= 288 + 84, f"{width} x {height}"


def test_the_list_of_documents_shows_words_on_a_phone(show, corpus):
    sheet = show(view(corpus, precision="u8"), width=390, height=844)
    cell = sheet.locator("tr[data-document='0'] .c-text")
    assert cell.bounding_box()["width"] > 120
    assert cell.inner_text().startswith("internationalisation word1")


@pytest.mark.parametrize(("num_layers", "num_heads"), [(2, 96), (96, 2), (1, 1024), (48, 25)])
def test_no_head_of_the_map_is_cut(show, num_layers, num_heads):
    sheet = show(view(wide(num_layers, num_heads)))
    box = sheet.locator(".figure.heat").bounding_box()
    last = f"L{num_layers - 1}·H{num_heads - 1}:"
    found = sheet.evaluate(
        """(last) => {
            const figure = document.querySelector(".figure.heat");
            const box = figure.getBoundingClientRect();
            for (let y = box.bottom - 1; y > box.top; y -= 1)
                for (let x = box.right; x > box.left; x -= Math.max(0.1, box.width / 4000)) {
                    figure.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
                    if (document.querySelector(".card-heat .readout").textContent.startsWith(last)) return [x - box.left, y - box.top];
                    if (document.querySelector(".card-heat .readout").textContent.startsWith("L")) break;
                }
            return null;
        }""",
        last,
    )
    assert found, f"{last} cannot be pointed at"
    assert found[0] < box["width"]
