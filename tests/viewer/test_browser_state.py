"""Keys, themes, the address, print, narrow windows, notebooks, assistive technology."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from attviz.records import Document
from attviz.viewer import view

pytestmark = pytest.mark.browser

SCENES = [("page", "light"), ("page", "dark"), ("dialog", "light"), ("narrow", "dark"), ("attviz", "light"), ("attviz", "dark")]
SCENES += [
    ("models", "light"),
    ("models", "dark"),
    ("help", "light"),
    ("compare", "light"),
    ("compare", "dark"),
    ("head", "light"),
    ("token", "dark"),
    ("export", "dark"),
    ("all tokens", "light"),
]
AXE_RUN = """() => axe.run(document, { resultTypes: ["violations"] }).then(
    result => result.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 160))]))"""
AXE = Path(__file__).parents[2] / "frontend" / "node_modules" / "axe-core" / "axe.min.js"


def test_keys(show, page):
    sheet = show(page)
    sheet.keyboard.press("ArrowRight")
    sheet.keyboard.press("ArrowRight")
    sheet.keyboard.press("Enter")
    sheet.settle()
    assert sheet.locator(".token.pinned").inner_text() == "billions"
    assert sheet.locator(".live").inner_text().startswith("billions, token 1, mean ")
    sheet.keyboard.press("+")
    first, end = map(int, sheet.hash()["w"][0].split("-"))
    assert first <= 1 < end == first + 8
    sheet.keyboard.press("0")
    assert "w" not in sheet.hash()
    sheet.keyboard.press("ArrowDown")
    sheet.wait_for_selector(".token >> text=shares")
    for key, title in (("?", "Help"), ("e", "Export"), ("t", "The numbers")):
        sheet.keyboard.press(key)
        assert sheet.locator("dialog h2").inner_text() == title
        sheet.keyboard.press("Escape")
        sheet.locator("dialog").wait_for(state="detached")


def test_the_heat_map_is_reached_and_used_by_keys(show, page):
    sheet = show(page)
    sheet.locator(".figure.heat").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        sheet.keyboard.press(key)
    sheet.settle()
    assert sheet.row_names() == ["L1·H1"]
    assert sheet.locator(".live").inner_text().startswith("L1·H1: mean ")
    sheet.keyboard.press(" ")
    assert sheet.hash()["focus"] == ["L1·H1"]


def test_the_address_brings_the_view_back(show, page):
    sheet = show(page)
    sheet.select_option("[aria-label='Statistic of a cell']", "max")
    sheet.select_option("[aria-label='Aggregate of the series']", "std")
    sheet.select_option("[aria-label='Scale of colours and strokes']", "robust")
    sheet.locator(".card-series").get_by_role("button", name="linear").click()
    sheet.locator(".token", has_text="spent").click()
    sheet.hash()
    again = show(page, address=sheet.evaluate("location.hash.slice(1)"))
    assert again.locator("[aria-label='Statistic of a cell']").input_value() == "max"
    assert again.locator("[aria-label='Aggregate of the series']").input_value() == "std"
    assert again.locator("[aria-label='Scale of colours and strokes']").input_value() == "robust"
    assert again.locator(".token.pinned").inner_text() == "spent"
    assert again.hash() == sheet.hash()


def test_theme_follows_the_system_until_it_is_chosen(show, page):
    sheet = show(page, color_scheme="dark")
    theme = "document.getElementById('attviz-root').dataset.theme"
    assert sheet.evaluate(theme) == "dark"
    sheet.emulate_media(color_scheme="light")
    sheet.settle()
    assert sheet.evaluate(theme) == "light"
    seen = []
    for _ in range(3):
        sheet.keyboard.press("d")
        sheet.settle()
        seen.append(sheet.evaluate(theme))
    assert seen == ["light", "dark", "light"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_paper_shows_every_figure_of_the_screen(show, page, theme, tmp_path):
    """Pixels of each figure, on paper: the canvases are there, and so are the tokens over their strokes."""
    sheet = show(page, address="pin=L0·H1&pin=L2·H3&t=3", color_scheme=theme, width=1280, height=720)
    shapes = {name: sheet.locator(name).bounding_box() for name in (".figure.heat", ".figure.series", ".strip")}
    (tmp_path / "page.pdf").write_bytes(sheet.pdf(format="A4", print_background=True))
    subprocess.run(["pdftoppm", "-r", "96", "-png", tmp_path / "page.pdf", tmp_path / "page"], check=True)
    paper = [np.asarray(Image.open(file).convert("RGB")).astype(int) for file in sorted(tmp_path.glob("page-*.png"))]
    ramp = [(np.abs(sheet_of_paper - [0xFD, 0xE7, 0x25]).max(2) < 40).sum() for sheet_of_paper in paper]
    assert sum(ramp) > 400  # the bright end of viridis: heat map and matrix
    for color in ("0072b2", "c95400") if theme == "light" else ("4aa3df", "ff8a4c"):
        pin = [int(color[i : i + 2], 16) for i in (0, 2, 4)]
        seen = sum((np.abs(one - pin).max(2) < 24).sum() for one in paper)
        assert seen > 120, f"pin #{color}: strokes under the text, line of the series, frame of the cell"
    words = subprocess.run(["pdftotext", tmp_path / "page.pdf", "-"], check=True, capture_output=True, text=True).stdout
    assert "pounds" in words
    assert sheet.locator(".figure.series").bounding_box() == shapes[".figure.series"]  # the screen is as before


@pytest.mark.parametrize("tokens", [12, 300])
def test_no_figure_leaves_its_card_on_paper(show, tokens):
    values = np.random.default_rng(0).beta(0.5, 8, (12, 12, tokens)).astype(np.float32)
    sheet = show(view(Document("x " * tokens, ("x",) * tokens, values)))
    sheet.emulate_media(media="print")
    sheet.set_viewport_size({"width": 700, "height": 1000})
    outside = sheet.evaluate(
        """() => [...document.querySelectorAll(".card .figure canvas:not(.over)")].filter(canvas => {
            const [one, card] = [canvas, canvas.closest(".card")].map(element => element.getBoundingClientRect());
            return one.height > 0 && (one.bottom > card.bottom + 1 || one.right > card.right + 1);
        }).map(canvas => canvas.parentElement.className)"""
    )
    assert outside == []


def test_paper_gets_the_whole_text(show):
    tokens = tuple(f"w{i}" for i in range(600))
    sheet = show(view(Document(" ".join(tokens), tokens, np.full((1, 1, 600), 0.5, np.float32))))
    before = sheet.locator(".token").count()
    assert before < 400
    sheet.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert sheet.locator(".token").count() == 600
    sheet.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert sheet.locator(".token").count() == before


@pytest.mark.parametrize("width", [320, 700, 1100, 1920])
def test_no_window_scrolls_sideways(show, page, width):
    sheet = show(page, address="pin=L0·H1&strokes=all", width=width)
    assert sheet.evaluate("document.documentElement.scrollWidth") <= width


def test_the_notebook_frame_shows_the_page(browser, page, tmp_path):
    file = tmp_path / "notebook.html"
    file.write_text(f"<!doctype html><body>{page._repr_html_()}</body>", encoding="utf-8")
    context = browser.new_context(offline=True, accept_downloads=True, viewport={"width": 1000, "height": 900})
    sheet = context.new_page()
    errors = []
    sheet.on("pageerror", lambda error: errors.append(str(error)))
    sheet.goto(file.as_uri())
    frame = sheet.frame_locator("iframe")
    frame.locator(".token", has_text="pounds").click()
    frame.locator(".page-header button", has_text="Export").click()
    with sheet.expect_download() as caught:
        frame.get_by_role("button", name="CSV").click()
    assert Path(caught.value.path()).read_text(encoding="utf-8").startswith("token_index,token,mean")
    assert errors == []
    context.close()


@pytest.mark.parametrize(
    ("scene", "theme"),
    SCENES,
)
def test_axe_finds_nothing_serious(show, page, analysis, attviz_json, theme, scene):
    assert AXE.exists(), "axe-core is missing: npm --prefix frontend ci"
    made = page
    if scene == "models":  # one head certain, the others grey
        ends = np.full((3, 4), 0.1)
        ends[0, 0] = -0.1
        made = view(SimpleNamespace(names=("a", "b"), analyses=(analysis, analysis), low=np.full((3, 4), -0.2), high=ends, level=0.95))
    sheet = show(made, address="pin=L0·H1&pin=agg:mean&t=3", color_scheme=theme, width=420 if scene == "narrow" else 1440)
    if scene in ("dialog", "export", "help"):
        sheet.keyboard.press({"dialog": "t", "export": "e", "help": "?"}[scene])
    if scene in ("compare", "models"):
        sheet.get_by_role("button", name="Compare", exact=True).click()
        sheet.until("document.querySelectorAll('.card-changes li').length > 0")
    if scene == "head":
        sheet.menu("L0·H1", "About this vector")
    if scene == "token":
        sheet.get_by_role("button", name="this token in all documents").click()
        sheet.until("document.querySelector('dialog') !== null")
    if scene == "all tokens":
        sheet.get_by_role("group", name="Tokens of").get_by_role("button", name="all").click()
        sheet.settle()
    if scene == "attviz":
        sheet.drop("a.json", attviz_json)
        sheet.locator(".card-rows").get_by_role("button", name="all", exact=True).click()
        sheet.get_by_role("button", name="more filters").click()
        sheet.settle()
    sheet.evaluate(AXE.read_text(encoding="utf-8"))
    violations = sheet.evaluate(AXE_RUN)
    assert violations == []


def test_nothing_moves_for_those_who_ask(show, page):
    sheet = show(page, reduced_motion="reduce")
    assert set(sheet.evaluate("[...document.querySelectorAll('.attviz button')].map(b => getComputedStyle(b).transitionDuration)")) == {
        "0s"
    }


def test_an_empty_title_and_no_classes_still_make_a_page(show, analysis):
    analysis.label_names = None
    for one in analysis.documents:
        object.__setattr__(one, "probabilities", None)
        object.__setattr__(one, "prediction", None)
        object.__setattr__(one, "label", None)
    sheet = show(view(analysis, title=""))
    assert not sheet.locator(".card-class").is_visible()
