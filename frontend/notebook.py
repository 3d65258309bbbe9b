"""Drives a real JupyterLab: the page in its frame, a widget shown twice, its selection read in Python, themes, and nbconvert's HTML.

    pip install jupyterlab anywidget playwright && python frontend/notebook.py OUT     # needs Chromium; pictures go to the folder OUT

Not part of the tests: JupyterLab is large, and the run takes the better part of a minute.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MADE = (
    "import numpy as np, attviz\n"
    "from attviz.records import Document\n"
    "from attviz.viewer.pairs import PairLayer\n"
    "words = 'billions of pounds spent on conflict in iraq'.split()\n"
    "rng = np.random.default_rng(0)\n"
    "made = Document(' '.join(words), tuple(words), rng.beta(0.5, 8, (6, 12, 8)).astype(np.float32))\n"
    "query, key = rng.normal(size=(2, 6, 12, 8, 16)).astype(np.float32)\n"
    "layers = [PairLayer(f'layer {i}', query[i], key[i], scale=0.25) for i in range(6)]\n"
    "page = attviz.view([made] * 3, pairs=[layers] * 3)\n"
)
LAST = ("widget = page.widget()\nwidget", "widget", "print(widget.selection)")
FRAME = "iframe[title='attviz page']"


def notebook(cells: Sequence[str]) -> dict[str, Any]:
    """These cells, after one that makes a page, as a notebook of format 4."""
    made: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": text, "outputs": [], "execution_count": None}
        for i, text in enumerate((MADE, *cells))
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def drive(browser: Any, url: str, out: Path) -> None:
    """Run all cells in JupyterLab; use frame and widgets; read in a cell what was selected and pinned; change the theme."""
    sheet = browser.new_page(viewport={"width": 1600, "height": 1250})
    errors: list[str] = []
    sheet.on("pageerror", lambda error: errors.append(str(error)))
    sheet.goto(url, timeout=300_000)
    sheet.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=300_000)
    sheet.wait_for_timeout(3000)
    sheet.get_by_role("menuitem", name="Run", exact=True).click()
    sheet.get_by_text("Run All Cells", exact=True).click()
    frame = sheet.frame_locator(FRAME)
    frame.locator(".token").nth(3).click(timeout=300_000)
    assert frame.locator(".token-name strong").inner_text() == "spent"
    sheet.locator(FRAME).screenshot(path=out / "jupyterlab-frame.png")
    widgets = sheet.locator(".attviz-widget")  # one widget, shown twice
    first, second = widgets.nth(0), widgets.nth(1)
    first.locator(".token").nth(5).click(timeout=300_000)
    heat = first.locator(".figure.heat").bounding_box()
    sheet.mouse.click(heat["x"] + 70, heat["y"] + 50)
    sheet.wait_for_timeout(800)
    first.screenshot(path=out / "jupyterlab-widget.png")
    told = read_selection(sheet)
    print("what was selected and pinned, read in Python:", told)
    assert "'token': 5" in told, told
    assert "'pinned': ['L" in told, told
    second.get_by_role("button", name="Pairs", exact=True).click()
    second.locator(".pairs-list li").first.wait_for()
    assert first.locator(".page-grid").is_visible(), "the two must not stand in each other's way"
    themes(sheet, frame, first, second, out)
    assert not errors, errors


def read_selection(sheet: Any) -> str:
    """Run the last cell again."""
    last = sheet.locator(".jp-Notebook .jp-CodeCell").last
    last.locator(".cm-content").click()
    sheet.keyboard.press("Control+Enter")
    sheet.wait_for_timeout(2500)
    return str(last.locator(".jp-OutputArea-output").inner_text())


def themes(sheet: Any, frame: Any, first: Any, second: Any, out: Path) -> None:
    """Frame and widgets follow the notebook from light to dark, while they are open."""
    root = frame.locator("#attviz-root")
    assert [one.get_attribute("data-theme") for one in (root, first, second)] == ["light"] * 3
    sheet.get_by_role("menuitem", name="Settings", exact=True).click()
    sheet.get_by_text("Theme", exact=True).hover()
    sheet.get_by_text("JupyterLab Dark", exact=True).click()
    sheet.wait_for_selector("body[data-jp-theme-light='false']", state="attached")
    sheet.wait_for_timeout(1500)
    sheet.screenshot(path=out / "jupyterlab-dark.png")
    second.screenshot(path=out / "jupyterlab-pairs-dark.png")
    assert [one.get_attribute("data-theme") for one in (first, second)] == ["dark"] * 2
    sheet.locator(FRAME).scroll_into_view_if_needed()  # out of sight a browser lets frames rest
    sheet.wait_for_timeout(1000)
    sheet.screenshot(path=out / "jupyterlab-frame-dark.png")
    assert root.get_attribute("data-theme") == "dark"


def static_html(browser: Any, folder: Path, out: Path) -> None:
    """What nbconvert writes must show the page too, without a network."""
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", "--output", "static.html", "page.ipynb"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    sheet = browser.new_context(offline=True, viewport={"width": 1400, "height": 1100}).new_page()
    sheet.goto((folder / "static.html").as_uri(), wait_until="domcontentloaded")
    frame = sheet.frame_locator(FRAME)
    frame.locator(".token").nth(2).click(timeout=60_000)
    assert frame.locator(".token-name strong").inner_text() == "pounds"
    sheet.screenshot(path=out / "nbconvert.png")


def main() -> None:
    """Start JupyterLab in an empty folder, drive it, and end it."""
    from playwright.sync_api import sync_playwright

    out = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        (folder / "page.ipynb").write_text(json.dumps(notebook(["page", *LAST])), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        static_html(browser, folder, out)
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=t"]
        with (out / "jupyterlab.log").open("w") as log:
            server = subprocess.Popen(
                [*command, f"--ServerApp.root_dir={folder}"],
                stdout=log,
                stderr=log,
                env=os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "c")},
            )
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token=t")
            drive(browser, f"http://127.0.0.1:{port}/lab/tree/page.ipynb?token=t", out)
        finally:
            server.terminate()
            server.wait()
            browser.close()
    print(f"frame, widget and static HTML work; pictures in {out}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    """Until the server answers, at most three minutes."""
    end = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(url)
            return
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    main()
