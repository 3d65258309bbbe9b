"""One Chromium for all tests of the page, and small analyses whose every number is known."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attviz.records import Document
from attviz.viewer import Page, view

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "the tests of the page drive Debian's Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


class Sheet:
    """A page open in the browser, with all that it complained of or asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def settle(self) -> None:
        """Wait until two frames were drawn: views follow the state once a frame."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0))))")

    def until(self, expression: str, seconds: float = 10.0) -> None:
        """Wait until JavaScript says yes. Asked from outside: the policy of the page forbids Playwright's own polling."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"still not so: {expression}"
            self.page.wait_for_timeout(30)

    def titled(self, start: str) -> None:
        """Wait until the collection with this title is open."""
        self.until(f"document.querySelector('.title-note').textContent.startsWith({json.dumps(start)})")
        self.settle()

    def hash(self) -> dict[str, list[str]]:
        """The state that the page wrote into its address."""
        from urllib.parse import parse_qs

        self.settle()  # on a busy machine the frame that changes the state comes late, and the address a while after it
        self.page.wait_for_timeout(260)
        self.settle()
        return parse_qs(self.page.evaluate("location.hash.slice(1)"))

    def drop(self, name: str, text: str) -> None:
        """Drop a file on the page."""
        self.page.evaluate(
            """([name, text]) => {
                const data = new DataTransfer();
                data.items.add(new File([text], name, { type: "application/json" }));
                const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
                document.getElementById("attviz-root").dispatchEvent(event);
            }""",
            [name, text],
        )
        self.settle()

    def download(self, label: str, *, inside: str) -> bytes:
        """Open the export dialog, press a button of a line, and return the file."""
        if not self.page.locator("dialog").count():
            self.page.locator(".page-header button", has_text="Export").click()
        line = self.page.locator("dialog li", has=self.page.get_by_text(inside, exact=True))
        with self.page.expect_download() as caught:
            line.get_by_role("button", name=label, exact=True).click()
        return Path(caught.value.path()).read_bytes()

    def menu(self, row: str, item: str) -> None:
        """Choose an item of a row's menu."""
        self.page.get_by_role("button", name=f"Edit {row}", exact=True).click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()
        self.settle()

    def row_names(self) -> list[str]:
        return [name.replace(" ●", "").replace(" hidden", "") for name in self.page.locator(".rows .row-name").all_inner_texts()]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Sheet]]:
    """Open a page from its file, without a network; at the end nothing may have been complained of or asked for."""
    contexts, sheets = [], []

    def opened(page: Page | str, *, address: str = "", width: int = 1440, height: int = 900, **options: Any) -> Sheet:
        file = tmp_path / f"page{len(contexts)}.html"
        if isinstance(page, Page):
            page.save(file)
        else:
            file.write_text(page, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, accept_downloads=True, **options)
        contexts.append(context)
        sheet = Sheet(context.new_page())
        sheets.append(sheet)
        sheet.page.goto(f"{file.as_uri()}{'#' + address if address else ''}")
        sheet.page.wait_for_selector(".page-header, .boot, .slim .token")
        sheet.settle()
        return sheet

    yield opened
    for context in contexts:
        context.close()
    for sheet in sheets:
        assert sheet.complaints == []
        assert [url for url in sheet.requests if not url.startswith(("file:", "data:", "blob:"))] == []


TEXTS = (
    "billions of pounds spent on conflict in iraq",
    "shares in the airline fell sharply on tuesday",
    "federer recovered from a set and a break down",
    "the chip maker unveiled a processor",
)


def make_document(index: int, num_layers: int = 3, num_heads: int = 4, **more: Any) -> Document:
    words = TEXTS[index % len(TEXTS)].split()
    tokens = ("[CLS]", *words, "[SEP]")
    rng = np.random.default_rng(index)
    values = rng.beta(0.6, 6.0, (num_layers, num_heads, len(tokens))).astype(np.float32)
    return Document(" ".join(words), tokens, values, special=np.array([True, *[False] * len(words), True]), **more)


@pytest.fixture
def analysis() -> SimpleNamespace:
    """Four documents, 3 layers x 4 heads, two classes; document 2 is classified wrongly."""
    documents = [
        make_document(
            i,
            name=f"story {i}",
            label=i % 2,
            prediction=0 if i == 3 else i % 2,
            probabilities=np.array([0.8, 0.2] if i % 2 == 0 or i == 3 else [0.3, 0.7]),
        )
        for i in range(4)
    ]
    layers = tuple(f"encoder.layer.{i}.attention" for i in range(3))
    return SimpleNamespace(documents=documents, layers=layers, label_names=("news", "sport"), model_name="tiny-model")


@pytest.fixture
def page(analysis: SimpleNamespace) -> Page:
    return view(analysis, precision="f32")


@pytest.fixture
def attviz_json() -> str:
    """A file as the original tool writes it: values as strings, two sets, a hidden vector, a highlight."""
    rng = np.random.default_rng(7)

    def vector(name: object, size: int, **more: Any) -> dict[str, Any]:
        return {"name": name, "vectors": [str(value) for value in rng.random(size).astype(np.float32)], **more}

    document = {
        "text": "w ##mc profits up",
        "name": "first",
        "output_activations": [{"name": "business", "value": "0.7"}, {"name": "sport", "value": 0.3}],
        "hilight": {"block": 0, "vectors": 1},
        "sets": [
            {
                "tokens": ["w", "##mc", "profits", "up"],
                "attention_vectors": [vector(0, 4), vector(1, 4, color="#ff0000"), vector(2, 4, visible=False)],
            },
            {"name": "words", "tokens": ["wmc", "profits", "up"], "attention_vectors": [vector("only", 3)]},
        ],
    }
    other = {
        "text": "hoffman hits out",
        "sets": [{"tokens": ["hoffman", "hits", "out"], "attention_vectors": [vector(0, 3), vector(1, 3)]}],
    }
    return json.dumps([document, other])
