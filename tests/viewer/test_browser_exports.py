"""Every export is opened and checked."""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(("figure", "width"), [("Text", "336"), ("Series and vectors", "680"), ("Heat map", "336")])
def test_pictures_can_stand_in_a_paper(show, page, figure, width):
    sheet = show(page, address="pin=L0·H1&pin=L2·H3")
    sheet.locator(".page-header button", has_text="Export").click()
    sheet.select_option("[aria-label='Width of pictures']", width)
    image = Image.open(io.BytesIO(sheet.download("PNG", inside=figure)))
    assert image.width == 4 * (int(width) + 24)
    assert len(image.convert("RGB").resize((200, 200)).getcolors(40_000)) > 20
    svg = ElementTree.fromstring(sheet.download("SVG", inside=figure))
    assert float(svg.get("width")) == int(width) + 24
    assert abs(4 * float(svg.get("height")) - image.height) < 4
    texts = ["".join(text.itertext()) for text in svg.iter(f"{SVG}text")]
    told = " ".join(texts)
    assert texts[0 if figure == "Heat map" else texts.index(f"{figure}: story 0")] == f"{figure}: story 0"
    assert "tiny-model" in told
    assert "scale log" in told
    assert "without special tokens" in told
    assert {"L0·H1", "L2·H3"} <= set(texts)
    if figure != "Heat map":
        assert "pounds" in texts
    widths = [float(text.get("x")) for text in svg.iter(f"{SVG}text") if text.get("text-anchor") == "start"]
    assert max(widths) < int(width)


def test_csv_holds_every_value_and_aggregate(show, page, analysis):
    sheet = show(page, address="pin=L1·H0")
    rows = list(csv.DictReader(io.StringIO(sheet.download("CSV", inside="Values of this document").decode())))
    diagonal = analysis.documents[0].diagonal
    flat = diagonal.reshape(12, -1).astype(np.float64)
    assert [row["token"] for row in rows] == list(analysis.documents[0].tokens)
    np.testing.assert_array_equal([np.float32(row["L1·H0 (pinned)"]) for row in rows], diagonal[1, 0])
    shares = flat / flat.sum(0)
    bins = np.floor(100 * flat)
    binned = []
    for column in bins.T:
        share = np.unique(column, return_counts=True)[1] / 12
        binned.append(-(share * np.log(share)).sum() / len(share))
    expected = {
        "mean": flat.mean(0),
        "std": flat.std(0, ddof=1),
        "max": flat.max(0),
        "min": flat.min(0),
        "range": np.ptp(flat, 0),
        "entropy (Table 2)": -(flat * np.log(flat)).sum(0) / 12,
        "entropy (binned)": np.array(binned),
        "entropy (Shannon)": -(shares * np.log(shares)).sum(0),
    }
    for name, values in expected.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=2e-6)


def test_json_holds_what_is_seen_and_opens_again(show, page, analysis):
    sheet = show(page, address="pin=L0·H1&pin=agg:mean&tint=L0·H1")
    sheet.menu("L0·H1", "Rename")
    sheet.locator("input.row-name").fill("first")
    sheet.keyboard.press("Enter")
    sheet.settle()
    sheet.menu("first", "Hide")
    text = sheet.download("JSON of all", inside="All 4 documents, as AttViz JSON").decode()
    documents = json.loads(text)
    assert [one["text"] for one in documents] == [one.text for one in analysis.documents]
    vectors = documents[2]["sets"][0]["attention_vectors"]
    assert len(vectors) == 13
    assert (vectors[1]["name"], vectors[1]["visible"], vectors[0]["visible"]) == ("first", False, True)
    assert documents[2]["hilight"] == {"block": 0, "vectors": 1}
    assert documents[0]["output_activations"] == [{"name": "news", "value": 0.8}, {"name": "sport", "value": 0.2}]
    got = np.array([vector["vectors"] for vector in vectors[:12]], np.float32)
    np.testing.assert_array_equal(got, analysis.documents[2].diagonal.reshape(12, -1))
    sheet.keyboard.press("Escape")
    sheet.drop("again.json", text)
    sheet.titled("again.json")
    sheet.locator(".card-rows").get_by_role("button", name="all", exact=True).click()
    sheet.settle()
    assert "first" in sheet.row_names()
    assert sheet.get_by_role("button", name="1 hidden: show").is_visible()


def test_names_from_layers_and_heads_make_a_grid_again(show, page):
    sheet = show(page)
    text = sheet.download("JSON", inside="This document, as AttViz JSON").decode()
    sheet.keyboard.press("Escape")
    sheet.drop("one.json", text)
    sheet.titled("one.json")
    assert sheet.locator(".card-heat h2").inner_text() == "Layers × heads"


@pytest.mark.parametrize("special", ["out", "in"])
def test_copy_as_python_draws_what_the_page_shows(show, page, analysis, special):
    """The code is run as it stands; the line it draws is the aggregate of the page."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    import attviz

    sheet = show(page, address=f"d=2&aggregate=max&axis=linear&special={special}", permissions=["clipboard-read"])
    sheet.locator(".page-header button", has_text="Export").click()
    sheet.get_by_role("button", name="Copy as Python").click()
    sheet.until("document.querySelector('dialog pre, .notice') !== null")
    shown = sheet.locator("dialog pre")
    code = shown.inner_text() if shown.count() else sheet.evaluate("navigator.clipboard.readText()")
    plt.close("all")
    exec(compile(code, "copied", "exec"), {"analysis": analysis, "attviz": attviz})
    lines = [line.get_ydata() for number in plt.get_fignums() for axis in plt.figure(number).axes for line in axis.lines]
    expected = analysis.documents[2].diagonal.max((0, 1)).astype(np.float64)
    if special == "out":
        expected[[0, -1]] = np.nan
    assert any(len(line) == len(expected) and np.allclose(line, expected, rtol=1e-5, equal_nan=True) for line in lines)
    assert plt.figure(plt.get_fignums()[0]).axes[0].get_yscale() == "linear"
    plt.close("all")


def test_python_reads_the_json_of_the_page_and_the_page_reads_that_of_python(show, page, analysis, tmp_path):
    from attviz import io

    sheet = show(page, address="pin=L0·H1&pin=agg:max&pin=agg:shannon")
    (tmp_path / "page.json").write_bytes(sheet.download("JSON of all", inside="All 4 documents, as AttViz JSON"))
    documents = io.read_attviz_json(tmp_path / "page.json")
    names = [vector.name for vector in documents[0].sets[0].vectors]
    assert names == [f"L{i}·H{j}" for i in range(3) for j in range(4)] + ["max of 12"]
    got = np.array([vector.values for vector in documents[1].sets[0].vectors[:12]], np.float32)
    np.testing.assert_array_equal(got, analysis.documents[1].diagonal.reshape(12, -1))
    again = io.write_attviz_json(documents, tmp_path / "python.json")
    sheet.keyboard.press("Escape")
    sheet.drop("python.json", again.read_text(encoding="utf-8"))
    sheet.titled("python.json · 13 vectors · 4 documents")
