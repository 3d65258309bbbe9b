"""Records the moving picture of the README: a few seconds of the real page, driven in Chromium.

    python frontend/picture.py                      docs/images/page.gif, and its first frame as docs/images/page.png
    python frontend/picture.py -o elsewhere/page.gif

Needs Chromium, playwright and Pillow (the `test` extra brings the latter two) and all-MiniLM-L6-v2 (the `demo` extra).
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import Page as Sheet
from playwright.sync_api import sync_playwright

import attviz
from attviz.analysis.models import load_model
from attviz.cli.demo import TEXTS

WIDTH, HEIGHT, SHOWN = 1440, 900, 1080
MORE = (
    "The bank raised its rates while the river bank was flooded.",
    "She told him that the train to the coast had already left.",
    "A good film needs a good story, and this one has none.",
)


def page(folder: Path) -> Path:
    """The page that is recorded."""
    model, tokenizer = load_model("all-MiniLM-L6-v2")
    analysis = attviz.analyze(model, tokenizer, [TEXTS[1], TEXTS[0], *TEXTS[2:], *MORE], progress=False)
    return attviz.view(analysis).save(folder / "page.html")


def story(sheet: Sheet) -> Iterator[tuple[tuple[float, float] | None, int]]:
    """Do one thing after another; after each, where the pointer is and how many milliseconds it is shown."""
    yield None, 1200
    tokens = sheet.locator(".token")
    for place in range(2, 8):  # walk over the words of the text
        yield _move(sheet, tokens.nth(place)), 350
    for place in (0.30, 0.52, 0.74):  # walk over the map, and pin a head
        yield _move(sheet, sheet.locator(".figure.heat"), place, 0.42), 400
    yield _press(sheet, sheet.locator(".figure.heat"), 0.74, 0.42), 1200
    yield _press(sheet, sheet.locator(".insight").nth(1)), 1600
    sheet.select_option("[aria-label='Aggregate of the series']", "std")
    yield _move(sheet, sheet.locator("[aria-label='Aggregate of the series']")), 1200
    sheet.select_option("[aria-label='Order of the vectors']", "cluster")
    yield _move(sheet, sheet.locator("[aria-label='Order of the vectors']")), 1200
    for _ in range(2):
        sheet.keyboard.press("ArrowDown")  # the next document
        yield None, 1100


def _move(sheet: Sheet, what: Any, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
    box = what.bounding_box()
    place = (box["x"] + x * box["width"], box["y"] + y * box["height"])
    sheet.mouse.move(*place)
    return place


def _press(sheet: Sheet, what: Any, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
    place = _move(sheet, what, x, y)
    sheet.mouse.down()
    sheet.mouse.up()
    return place


def frame(sheet: Sheet, pointer: tuple[float, float] | None) -> Image.Image:
    """What the screen shows, with the pointer, which a screenshot leaves out."""
    sheet.wait_for_timeout(250)
    picture = Image.open(io.BytesIO(sheet.screenshot())).convert("RGB")
    if pointer is not None:
        x, y = pointer
        arrow = [(0, 0), (0, 22), (6, 17), (10, 26), (14, 24), (10, 16), (17, 16)]
        ImageDraw.Draw(picture).polygon([(x + dx, y + dy) for dx, dy in arrow], fill="black", outline="white")
    return picture


def _colours(picture: Image.Image, count: int, method: Image.Quantize) -> list[int]:
    """A palette: the first method finds the large grey areas, the second the thin coloured lines."""
    found = picture.quantize(count, method=method).getpalette() or []
    return (found + [255] * 3 * count)[: 3 * count]


def main() -> None:
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parents[1] / "docs" / "images" / "page.gif")
    output = parser.parse_args().output
    frames, times = [], []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        sheet = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        sheet.goto(page(Path(folder)).as_uri())
        sheet.wait_for_selector(".token")
        sheet.wait_for_timeout(800)
        for pointer, milliseconds in story(sheet):
            frames.append(frame(sheet, pointer))
            times.append(milliseconds)
        browser.close()
    frames[0].save(output.with_suffix(".png"), optimize=True)
    small = [one.resize((SHOWN, HEIGHT * SHOWN // WIDTH), Image.Resampling.LANCZOS) for one in frames]
    sheet_of_all = Image.new("RGB", (SHOWN, small[0].height * len(small)))
    for place, one in enumerate(small):
        sheet_of_all.paste(one, (0, place * one.height))
    palette = Image.new("P", (1, 1))
    palette.putpalette(_colours(sheet_of_all, 176, Image.Quantize.MEDIANCUT) + _colours(sheet_of_all, 80, Image.Quantize.MAXCOVERAGE))
    indexed = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in small]
    indexed[0].save(output, save_all=True, append_images=indexed[1:], duration=times, loop=0, optimize=True)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, {len(frames)} frames, {sum(times) / 1000:.1f} s")


if __name__ == "__main__":
    main()
