"""Drives a real VS Code: what its notebook renderer makes of the page that a cell has put out, in a light and a dark theme.

    npm pack code-server@4.100.3 && tar xzf code-server-*.tgz            # the newest that Node 20 runs; no script of it is needed
    (cd package/lib/vscode && npm install --omit=dev --ignore-scripts && cd extensions && npm install --omit=dev --ignore-scripts)
    python frontend/vscode.py package/lib/vscode OUT      # needs Chromium, nbconvert, ipykernel; pictures go to the folder OUT

No kernel runs in it (the extension for that comes from a market place): the notebook was executed before it is opened, as one that a
colleague has sent. The webview, its policy and the renderer are VS Code's own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from notebook import free_port, notebook, wait_for


def executed(folder: Path) -> Path:
    """The notebook with its outputs."""
    (folder / "page.ipynb").write_text(json.dumps(notebook(["page"])), encoding="utf-8")
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "notebook", "--inplace", "page.ipynb"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "page.ipynb"


def page_frame(sheet: Any) -> Any:
    """The frame that the renderer made of the output: inside the webview's own two frames."""
    for _ in range(120):
        for frame in sheet.frames:
            if frame.url == "about:srcdoc" and frame.locator(".token").count():
                return frame
        sheet.wait_for_timeout(500)
    raise AssertionError("the page did not show: " + ", ".join(frame.url for frame in sheet.frames))


def drive(browser: Any, url: str, out: Path, theme: str) -> None:
    """Open the notebook and use the page."""
    sheet = browser.new_page(viewport={"width": 1600, "height": 1200})
    sheet.goto(url, timeout=120_000)
    sheet.get_by_text("page.ipynb", exact=True).first.wait_for(timeout=120_000)
    sheet.wait_for_timeout(12_000)  # until its extensions know what a notebook is
    sheet.get_by_text("page.ipynb", exact=True).first.dblclick()
    frame = page_frame(sheet)
    frame.locator(".token").nth(3).click()
    assert frame.locator(".token-name strong").inner_text() == "spent"
    assert frame.evaluate("document.getElementById('attviz-root').dataset.theme") == theme
    frame.get_by_role("button", name="Pairs", exact=True).click()
    frame.locator(".pairs-list li").first.wait_for()
    sheet.screenshot(path=out / f"vscode-{theme}.png")
    sheet.close()


def main() -> None:
    """Start VS Code over an executed notebook, once in each theme, and end it."""
    from playwright.sync_api import sync_playwright

    code, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        file = executed(folder)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for theme, called in (("light", "Default Light Modern"), ("dark", "Default Dark Modern")):
            data = folder / theme
            settings = data / "data" / "User" / "settings.json"
            settings.parent.mkdir(parents=True)
            chosen = {"workbench.colorTheme": called, "workbench.startupEditor": "none", "security.workspace.trust.enabled": False}
            settings.write_text(json.dumps(chosen), encoding="utf-8")
            port = free_port()
            options = ["--host=127.0.0.1", f"--port={port}", "--without-connection-token", "--accept-server-license-terms"]
            options += [f"--server-data-dir={data}", "--telemetry-level=off"]
            with (out / f"vscode-{theme}.log").open("w") as log:
                server = subprocess.Popen(["node", str(code / "out/server-main.js"), *options], stdout=log, stderr=log)
            try:
                wait_for(f"http://127.0.0.1:{port}/version")
                drive(browser, f"http://127.0.0.1:{port}/?folder={file.parent}", out, theme)
            finally:
                server.terminate()
                server.wait()
        browser.close()
    print(f"the page works in VS Code; pictures in {out}")


if __name__ == "__main__":
    main()
