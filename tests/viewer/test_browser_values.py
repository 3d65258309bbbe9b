"""Right values in the right ink: missing ones, one unit an axis, the same colours in every window, scripts that run to the left."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from attviz.records import Document
from attviz.viewer import view

pytestmark = pytest.mark.browser


def matrix(sheet):
    """Colours in the middle of the matrix's columns, from the series figure."""
    return np.asarray(Image.open(io.BytesIO(sheet.locator(".figure.series").screenshot())).convert("RGB")).astype(int)


def legend(sheet):
    return sheet.locator(".card-series .legend-item").last.inner_text()


def test_colour_ranges_come_from_the_data_and_not_from_the_window(show):
    values = np.random.default_rng(0).beta(0.5, 8, (2, 4, 3000)).astype(np.float32)
    sheet = show(view(Document("x " * 3000, ("x",) * 3000, values)))
    ends = legend(sheet)
    for width, height in ((1280, 720), (2560, 1440), (390, 844)):
        sheet.set_viewport_size({"width": width, "height": height})
        sheet.settle()
        assert legend(sheet) == ends
    sheet.keyboard.press("+")
    sheet.settle()
    assert legend(sheet) == ends


def test_one_range_for_all_documents(show):
    documents = [Document("a b c", ("a", "b", "c"), np.full((1, 2, 3), level, np.float32) * [0.5, 0.8, 1.0]) for level in (0.02, 0.2, 0.9)]
    documents = [Document(one.text, one.tokens, np.asarray(one.diagonal, np.float32)) for one in documents]
    sheet = show(view(documents, precision="f32"), address="scale=raw")
    own = legend(sheet)
    sheet.select_option("[aria-label='Range of colours']", "corpus")
    sheet.settle()
    shared = legend(sheet)
    sheet.keyboard.press("ArrowDown")
    sheet.settle()
    assert own == "0.01 – 0.02, linear"
    assert legend(sheet) == shared == "0.01 – 0.9, linear"


def test_missing_values_are_hatched_and_never_the_floor(show):
    values = np.full((1, 4, 8), 0.3, np.float32)
    values[0, :, 3:5] = np.nan
    sheet = show(view(Document("a b c d e f g h", tuple("abcdefgh"), values), precision="f32"))
    pixels = matrix(sheet)
    band = (np.abs(pixels - [0xE9, 0xED, 0xF4]).max(2) < 3).sum(0)
    left, step = 58, (pixels.shape[1] - 66) / 8
    assert band[int(left + 3.2 * step) : int(left + 4.8 * step)].max() < 5  # no band from the floor upward
    sheet.locator(".token", has_text="d").hover()
    sheet.settle()
    assert dict(zip(sheet.locator(".stats dt").all_inner_texts(), sheet.locator(".stats dd").all_inner_texts(), strict=True))["mean"] == "–"


def test_an_entropy_has_an_axis_of_its_own(show, page):
    sheet = show(page, address="pin=L0·H1&pin=agg:shannon&aggregate=shannon&axis=linear")
    assert sheet.locator(".card-series .legend").inner_text().split("\n")[0] == "entropy (Shannon)"
    assert "min–max" not in sheet.locator(".card-series .legend").inner_text()
    blue = [0x00, 0x72, 0xB2]
    upper = matrix(sheet)[:120, 60:]
    assert (np.abs(upper - blue).max(2) < 20).sum() == 0  # a weight is not drawn among entropies
    sheet.select_option("[aria-label='Aggregate of the series']", "mean")
    sheet.settle()
    assert (np.abs(matrix(sheet)[:160, 60:] - blue).max(2) < 40).sum() > 20


def test_a_text_from_right_to_left_runs_so(show):
    words = ("שלום", "עולם", "זה", "מבחן")
    text = " ".join(words)
    sheet = show(view(Document(text, words, np.full((1, 2, 4), 0.4, np.float32))))
    lefts = [sheet.locator(f".token[data-token='{i}']").bounding_box()["x"] for i in range(4)]
    assert lefts == sorted(lefts, reverse=True)


def test_joined_clusters_stay_whole_and_look_alikes_are_shown(show):
    text = "a \U0001f469\u200d\U0001f680 b\u200dc"
    # A byte-level tokenizer cuts the emoji into its three characters.
    offsets = np.array([[0, 1], [2, 3], [3, 4], [4, 5], [6, 7], [7, 9]])
    tokens = ("a", "x1", "x2", "x3", "b", "\u200dc")
    sheet = show(view(Document(text, tokens, np.full((1, 1, 6), 0.4, np.float32), offsets=offsets)))
    shown = sheet.locator(".token").all_inner_texts()
    assert shown == ["a", "\U0001f469\u200d\U0001f680", "·", "·", "b‹U+200D›", "c"]


def test_strokes_are_named_under_the_pointer(show, page):
    sheet = show(page, address="strokes=all&pin=L0·H1")
    box = sheet.locator(".token", has_text="pounds").bounding_box()
    names = set()
    for step in range(60):
        sheet.mouse.move(box["x"] + 10, box["y"] + box["height"] + 3 + step)
        sheet.settle()
        title = sheet.locator(".strip").get_attribute("title") or ""
        if "pounds" in title:
            names.add(title.split(":")[0])
    assert len(names) == 12


def test_a_json_saved_after_edits_opens_with_grid_identity_and_missing_values(show, analysis):
    values = np.array(analysis.documents[0].diagonal)
    values[1, 1, 3] = np.nan
    one = analysis.documents[0]
    document = Document(
        one.text, one.tokens, values, special=one.special, name=one.name, label=1, prediction=0, probabilities=one.probabilities
    )
    analysis.documents[0] = document
    sheet = show(view(analysis, precision="f32"), address="pin=L0·H1")
    sheet.menu("L0·H1", "Rename")
    sheet.locator("input.row-name").fill("first")
    sheet.keyboard.press("Enter")
    sheet.settle()
    text = sheet.download("JSON of all", inside="All 4 documents, as AttViz JSON").decode()
    assert json.loads(text)[0]["label"] == "sport"
    sheet.keyboard.press("Escape")
    sheet.drop("again.json", text)
    sheet.titled("again.json")
    assert sheet.locator(".card-heat h2").inner_text() == "Layers × heads"
    assert sheet.locator("tr[data-document='0'] .c-label").inner_text() == "sport"
    again = json.loads(sheet.download("JSON", inside="This document, as AttViz JSON"))[0]["sets"][0]["attention_vectors"]
    assert (again[1]["name"], again[1]["layer"], again[1]["head"]) == ("first", 0, 1)
    assert again[5]["missing"] == [3]
