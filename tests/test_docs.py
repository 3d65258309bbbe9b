"""The snippets of the documentation run as they stand, in order, in one namespace per page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attviz.calls import layouts
from attviz.hooks.tap.operators import registry

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _tables():
    """What a page registers goes with it."""
    registry.registered()
    operators, entries = dict(registry._table), list(layouts._table)
    yield
    registry._table.clear()
    registry._table.update(operators)
    layouts._table[:] = entries


PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if FENCE.search(path.read_text(encoding="utf-8")))
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
GALLERY = sorted((DOCS.parent / "examples" / "gallery").glob("plot_*.py"))


def test_the_pages_that_teach_have_snippets_that_run():
    assert {"start.md", "your-own-model.md", "howto/training.md", "howto/extend.md", "howto/long-context.md", "pairs.md"} <= set(PAGES)


@pytest.mark.parametrize("page", ["../README.md", *(page for page in PAGES if page != "index.md")])
def test_snippets_run(page, tmp_path, monkeypatch):
    """A fence that says `python no-run` needs what a test has not: a hub, a data set, the user's model."""
    monkeypatch.chdir(tmp_path)  # some write a file
    names: dict[str, object] = {"__name__": "page"}
    for snippet in FENCE.findall((DOCS / page).read_text(encoding="utf-8")):
        exec(compile(snippet, page, "exec"), names)


@pytest.mark.parametrize(
    "page", [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: str(path.relative_to(DOCS.parent))
)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        place = (page.parent / target).resolve()
        found = place.exists() or place.with_suffix(".md").exists() or place.relative_to(DOCS.resolve()).parts[:1] == ("gallery",)
        assert found, f"{page}: {target}"


@pytest.mark.parametrize("example", GALLERY, ids=lambda path: path.stem)
def test_an_example_says_what_it_shows(example):
    text = example.read_text(encoding="utf-8")
    title, line = text.removeprefix('"""').strip().splitlines()[:2]
    assert set(line) == {"="}, f"{example}: no title"
    assert len(line) >= len(title)
    assert "# What it shows: " in text, f"{example}: ends in one sentence of what the figure shows"
