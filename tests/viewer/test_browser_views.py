"""Each view shows the numbers it should, and what is pointed at in one is marked in all."""

import re

import numpy as np
import pytest

from attviz.viewer import view

pytestmark = pytest.mark.browser


def cell(sheet, layer, head):
    """Middle of a cell of the heat map: found by what the readout says there."""
    found = sheet.evaluate(
        """(name) => {
            const figure = document.querySelector(".figure.heat");
            const box = figure.getBoundingClientRect();
            for (let y = box.top + 16; y < box.bottom; y += 4)
                for (let x = box.left + 16; x < box.right; x += 4) {
                    figure.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
                    if (document.querySelector(".card-heat .readout").textContent.startsWith(name)) return [x + 4, y + 4];
                }
            return null;
        }""",
        f"L{layer}·H{head}:",
    )
    assert found, f"no cell L{layer}·H{head}"
    return found


@pytest.mark.parametrize("special", ["out", "in"])
def test_heat_map_tells_each_statistic_and_pins_on_click(show, page, analysis, special):
    sheet = show(page)
    if special == "in":
        sheet.get_by_role("group", name="Special tokens").get_by_role("button", name="in").click()
    x, y = cell(sheet, 1, 2)
    values = analysis.documents[0].diagonal[1, 2].astype(np.float64)[slice(1, -1) if special == "out" else slice(None)]
    expected = {"mean": values.mean(), "std": values.std(ddof=1), "max": values.max(), "min": values.min(), "range": np.ptp(values)}
    for name, value in expected.items():
        sheet.select_option("[aria-label='Statistic of a cell']", name)
        sheet.mouse.move(x, y)
        sheet.settle()
        text = sheet.locator(".card-heat .readout").inner_text()
        assert text.startswith(f"L1·H2: {name} ")
        if value > 1e-3:
            assert float(text.split()[2]) == pytest.approx(value, rel=6e-3)
        assert text.endswith("encoder.layer.1.attention")
    sheet.mouse.click(x, y)
    sheet.settle()
    assert sheet.row_names() == ["L1·H2"]
    sheet.mouse.click(x, y)
    sheet.settle()
    assert sheet.row_names() == []


def test_double_click_and_drag_isolate_vectors(show, page):
    sheet = show(page)
    x, y = cell(sheet, 0, 1)
    sheet.mouse.dblclick(x, y)
    assert sheet.hash()["focus"] == ["L0·H1"]
    assert sheet.get_by_role("button", name="isolated: 1 of 12 ×").is_visible()
    sheet.keyboard.press("Escape")
    sheet.keyboard.press("Escape")
    assert "focus" not in sheet.hash()
    far = cell(sheet, 1, 3)
    sheet.mouse.move(x, y)
    sheet.mouse.down()
    sheet.mouse.move(*far, steps=4)
    sheet.mouse.up()
    assert sheet.hash()["focus"] == ["L0·H1", "L0·H2", "L0·H3", "L1·H1", "L1·H2", "L1·H3"]


def test_heat_map_over_all_documents(show, page, analysis):
    sheet = show(page)
    x, y = cell(sheet, 2, 3)
    everything = np.concatenate([one.diagonal[2, 3, 1:-1] for one in analysis.documents]).mean(dtype=np.float64)
    sheet.select_option("[aria-label='Documents of the heat map']", "all")
    sheet.mouse.move(x, y)
    sheet.settle()
    assert float(sheet.locator(".card-heat .readout").inner_text().split()[2]) == pytest.approx(everything, rel=6e-3)
    sheet.select_option("[aria-label='Documents of the heat map']", "difference")
    sheet.mouse.move(x + 1, y)
    sheet.settle()
    difference = analysis.documents[0].diagonal[2, 3, 1:-1].mean(dtype=np.float64) - everything
    assert float(sheet.locator(".card-heat .readout").inner_text().split()[2]) == pytest.approx(difference, rel=6e-3)


def test_token_is_marked_everywhere_and_told(show, page, analysis):
    sheet = show(page)
    sheet.locator(".token", has_text="pounds").hover()
    sheet.settle()
    assert sheet.locator(".token.hovered").inner_text() == "pounds"
    assert sheet.locator(".top li.active").inner_text().startswith("pounds")
    values = analysis.documents[0].diagonal[:, :, 3].astype(np.float64)
    terms = sheet.locator(".stats dt").all_inner_texts()
    told = dict(zip(terms, sheet.locator(".stats dd").all_inner_texts(), strict=True))
    assert float(told["mean"]) == pytest.approx(values.mean(), rel=6e-3)
    assert float(told["max"]) == pytest.approx(values.max(), rel=6e-3)
    assert float(told["lift"]) == pytest.approx(values.mean() * 10, rel=6e-3)
    layer, head = np.unravel_index(values.argmax(), values.shape)
    assert told["highest"] == f"L{layer}·H{head}"
    sheet.locator(".token", has_text="pounds").click()
    sheet.mouse.move(5, 300)
    sheet.settle()
    assert sheet.locator(".token.pinned").inner_text() == "pounds"
    assert sheet.hash()["t"] == ["3"]
    sheet.keyboard.press("Escape")
    sheet.settle()
    assert sheet.locator(".token.pinned").count() == 0


def test_series_names_set_vector_and_value_and_the_text_follows(show, page):
    sheet = show(page)
    box = sheet.locator(".figure.series").bounding_box()
    rows = set()
    for y in range(int(box["height"]) - 30, 120, -5):
        sheet.mouse.move(box["x"] + 46 + (box["width"] - 54) * 3.5 / 10, box["y"] + y)
        sheet.settle()
        tip = sheet.locator(".tip").inner_text()
        assert tip.startswith("pounds #3 · mean ")
        rows.update(re.findall(r"L\d·H\d", tip))
    assert len(rows) >= 10
    assert sheet.locator(".token.hovered").inner_text() == "pounds"


def test_a_drag_in_the_series_zooms_and_a_double_click_shows_all(show, page):
    sheet = show(page)
    box = sheet.locator(".figure.series").bounding_box()
    middle = box["y"] + 60
    sheet.mouse.move(box["x"] + 60, middle)
    sheet.mouse.down()
    sheet.mouse.move(box["x"] + box["width"] * 0.75, middle, steps=5)
    sheet.mouse.up()
    first, last = map(int, sheet.hash()["w"][0].split("-"))
    assert first == 0
    assert last == 8
    sheet.mouse.dblclick(box["x"] + 200, middle)
    assert "w" not in sheet.hash()


@pytest.mark.parametrize(("axis", "aggregate"), [("linear", "max"), ("log", "shannon"), ("log", "std")])
def test_series_draws_every_aggregate_on_both_axes(show, page, axis, aggregate):
    sheet = show(page, address=f"axis={axis}&aggregate={aggregate}")
    assert sheet.locator(".figure.series canvas").first.evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0)"
    )
    assert sheet.locator(".card-series [aria-pressed=true]").inner_text() == axis


def test_top_tokens_are_ranked_without_special_ones(show, page, analysis):
    sheet = show(page)
    means = analysis.documents[0].diagonal.mean((0, 1), dtype=np.float64)
    order = [i for i in np.argsort(-means, kind="stable") if 0 < i < len(means) - 1]
    expected = [f"{analysis.documents[0].tokens[i]} {i}" for i in order]
    assert sheet.locator(".top-name").all_inner_texts() == expected


def test_class_card_shows_shares_and_details(show, page):
    sheet = show(page)
    assert sheet.locator(".card-class").inner_text().split("\n")[:2] == ["Class", "label news ✓"]
    sheet.get_by_role("button", name="details").click()
    dialog = sheet.locator("dialog")
    assert "The class with the highest score, 80%, is news." in dialog.inner_text()
    assert dialog.locator("tbody tr").all_inner_texts() == ["news\t0.8\t80%", "sport\t0.2\t20%"]


@pytest.mark.parametrize(("scale", "word"), [("log", "log"), ("raw", "linear"), ("robust", "robust 99%"), ("lift", "lift")])
def test_every_scale_is_in_the_legends(show, page, scale, word):
    sheet = show(page)
    sheet.select_option("[aria-label='Scale of colours and strokes']", scale)
    sheet.settle()
    assert word in sheet.locator(".legend").inner_text()
    assert word in sheet.locator(".legend-tint").inner_text()


def test_an_image_is_shown_with_its_patches(show):
    from attviz.records import Document

    rng = np.random.default_rng(0)
    document = Document(
        "a picture",
        ("[CLS]", *[f"p{i}" for i in range(6)]),
        rng.random((2, 2, 7)).astype(np.float32),
        grid=(2, 3),
        special=np.array([True] + [False] * 6),
    )
    sheet = show(view(document, images=[np.full((20, 30, 3), 200, np.uint8)]))
    sheet.wait_for_timeout(100)
    figure = sheet.locator(".figure.patches")
    box = figure.bounding_box()
    side = min(box["width"] / 3, 126)
    left = box["x"] + (box["width"] - 3 * side) / 2
    sheet.mouse.move(left + 1.5 * side, box["y"] + 1.5 * side)
    sheet.settle()
    assert sheet.locator(".token-name strong").inner_text() == "p4"


def test_no_value_where_values_are_missing(show):
    from attviz.records import Document

    values = np.full((2, 2, 3), np.nan, np.float32)
    values[0, 0, 0] = 0.5
    sheet = show(view(Document("a b c", ("a", "b", "c"), values)))
    sheet.locator(".token", has_text="b").hover()
    sheet.settle()
    assert set(sheet.locator(".stats dd").all_inner_texts()) == {"–"}


@pytest.mark.parametrize("count", [1, 2])
def test_a_text_of_one_or_two_tokens(show, count):
    from attviz.records import Document

    values = np.full((1, 1, count), 0.5, np.float32)
    sheet = show(view(Document("word", ("word",) * count, values)))
    assert sheet.locator(".token").count() == count
    assert sheet.locator(".top li").count() == count


@pytest.mark.parametrize(("tokens", "message"), [((), "Document 0 has no tokens"), (("a", "b"), "Every value of document 0 is missing")])
def test_a_document_without_values_is_told(show, tokens, message):
    from attviz.records import Document

    sheet = show(view(Document(" ".join(tokens), tokens, np.full((2, 3, len(tokens)), np.nan, np.float32))))
    sheet.wait_for_selector(".notice")
    assert message in sheet.locator(".notice").inner_text()
    sheet.keyboard.press("ArrowRight")
    sheet.settle()


def test_many_vectors_begin_with_the_three_strongest_pinned(show):
    from attviz.records import Document

    values = np.random.default_rng(3).beta(0.5, 8, (5, 4, 6)).astype(np.float32)
    sheet = show(view(Document("a b c d e f", tuple("abcdef"), values)))
    best = np.argsort(-values.mean(2).reshape(-1))[:3]
    assert sheet.row_names() == [f"L{at // 4}·H{at % 4}" for at in best]
    assert show(view(Document("a b c d e f", tuple("abcdef"), values)), address="t=1").row_names() == []


def test_every_card_of_numbers_says_what_high_and_low_mean(show, page):
    sheet = show(page)
    for name in ("heat", "text", "series", "top", "token"):
        sheet.locator(f".card-{name} .about").click()
        text = sheet.locator(".notice").inner_text()
        assert text.split("\n")[0] == sheet.locator(f".card-{name} .about").get_attribute("title")
        assert len(text) > 60
