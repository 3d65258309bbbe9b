"""Large inputs keep working: what is drawn is bounded whatever the data holds. Speed is measured in the benchmark, not here."""

import base64
import io

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from attviz.records import Document
from attviz.viewer import view

pytestmark = pytest.mark.browser


def test_a_long_text_draws_few_elements_and_keeps_its_peaks(show):
    rng = np.random.default_rng(0)
    values = (rng.random((12, 12, 4096)) * 0.01).astype(np.float32)
    values[5, 7, 3000] = 1.0
    tokens = tuple(f"w{i}" for i in range(4096))
    sheet = show(view(Document(" ".join(tokens), tokens, values), precision="u8"), address="aggregate=max&axis=linear")
    assert sheet.locator(".token").count() < 500
    assert sheet.evaluate("document.querySelectorAll('*').length") < 2500
    assert sheet.locator(".top-name").first.inner_text() == "w3000 3000"
    sheet.locator(".strip-scroll").evaluate("e => e.scrollTop = e.scrollHeight")
    sheet.wait_for_selector(".token[data-token='4095']")
    line = sheet.evaluate(
        """() => {
            const canvas = document.querySelector(".figure.series canvas");
            const column = canvas.getContext("2d").getImageData(46 + Math.round((canvas.width - 54) * 3000 / 4096) - 3, 6, 6, 12).data;
            return column.some((value, i) => i % 4 === 3 && value > 200);
        }"""
    )
    assert line, "the peak at token 3000 reaches the top of the series"


def test_two_thousand_documents_open_one_at_a_time(show):
    rng = np.random.default_rng(0)

    def one(index):
        tokens = tuple(f"t{i}" for i in range(16))
        return Document(f"text {index}", tokens, rng.random((2, 6, 16)).astype(np.float32))

    sheet = show(view([one(i) for i in range(2000)]))
    assert sheet.locator("tr[data-document]").count() < 60
    sheet.locator("tr[data-document='5'] .open").click()
    sheet.until("document.querySelector('.card-text .note').textContent.startsWith('document 5 ')")


def picture(sheet, figure):
    """The canvas of a figure as [height, width, 3] values of 0 to 255."""
    url = sheet.evaluate(f"document.querySelector('{figure} canvas').toDataURL('image/png')")
    return 255 * imread(io.BytesIO(base64.b64decode(url.split(",")[1])), format="png")[:, :, :3]


def test_dense_lines_reach_every_peak_and_ramps_are_viridis(show):
    values = np.full((1, 20, 3000), 0.01, np.float32)
    values[0, 3, 1234] = 0.9  # one token of 3000: in a column of pixels with others
    sheet = show(view(Document("x", ("x",) * 3000, values)), address="pin=L0·H3&strokes=off&tint=off")
    series = picture(sheet, ".figure.series")
    width = series.shape[1]
    ys, xs = np.nonzero((np.abs(series[:, 58:] - [0, 0x72, 0xB2]) < 12).all(2))
    assert abs(xs[ys.argmin()] - (width - 66) * 1234.5 / 3000) < 2
    assert np.ptp(ys) > 30
    heat = picture(sheet, ".figure.heat")
    height, width, _ = heat.shape
    legend = heat[height - 26, 14 : width - 14 : 2]
    expected = 255 * colormaps["viridis"](np.arange(0, width - 28, 2) / (width - 29))[:, :3]
    assert np.abs(legend - expected).max() <= 4


def test_a_large_document_arrives_whole_though_its_work_is_cut(show):
    """Map first, matrix a frame later; the last document asked for wins, and a switch there and back leaves every number as it was."""
    tokens = ("[CLS]", *(f"w{i}" for i in range(1498)), "[SEP]")
    levels = (0.1, 0.4, 0.7)
    documents = []
    for level in levels:
        values = np.linspace(level, level + 0.1, 12 * 12 * 1500, dtype=np.float32).reshape(12, 12, 1500)  # from 200 000 values on it is cut
        documents.append(Document(" ".join(tokens[1:-1]), tokens, values))
    sheet = show(view(documents, precision="f32"), address="scale=raw")
    legend = "document.querySelector('.card-series .legend-item:last-child').textContent"
    top = "document.querySelector('.top li .value').textContent"
    sheet.until(f"{legend} === '0.1 – 0.2, linear'")
    first = sheet.evaluate(top)
    sheet.keyboard.press("ArrowDown")
    sheet.keyboard.press("ArrowDown")
    sheet.until(f"{legend} === '0.7 – 0.8, linear'")
    assert sheet.locator("tr.current").get_attribute("data-document") == "2"
    expected = documents[2].diagonal[:, :, 1:-1].mean((0, 1), dtype=np.float64).max()
    assert float(sheet.evaluate(top)) == pytest.approx(expected, rel=6e-3)
    last = sheet.locator(".figure.series").screenshot()
    sheet.keyboard.press("ArrowUp")
    sheet.until(f"{legend} === '0.4 – 0.5, linear'")
    sheet.keyboard.press("ArrowUp")
    sheet.until(f"{legend} === '0.1 – 0.2, linear'")
    assert sheet.evaluate(top) == first
    special = sheet.get_by_role("group", name="Special tokens")
    special.get_by_role("button", name="in", exact=True).click()
    sheet.until("document.querySelector('.top li').textContent.startsWith('SEP')")
    sheet.keyboard.press("ArrowDown")
    sheet.keyboard.press("ArrowDown")
    sheet.until(f"{legend} === '0.7 – 0.8, linear'")
    special.get_by_role("button", name="out", exact=True).click()
    sheet.settle()
    sheet.settle()
    sheet.mouse.move(5, 5)
    sheet.settle()
    assert sheet.locator(".figure.series").screenshot() == last
