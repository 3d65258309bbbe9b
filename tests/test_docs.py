"""The snippets of the documentation run as they stand, in order, in one namespace per page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import attviz
from attviz import errors
from attviz.calls import layouts
from attviz.errors import AttvizError
from attviz.hooks.scope import caches
from attviz.hooks.tap.operators import registry
from benchmarks import readme

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _tables():
    """What a page registers goes with it."""
    registry.registered()
    tables = registry._table, layouts._table, caches._table
    before = [table.entries for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.entries = entries


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


def test_the_reference_has_every_public_name():
    """Public packages are documented as a whole (`automodule`), names of `attviz` itself one by one."""
    shown = " ".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"auto\w+:: (\S+)", shown))
    named = {f"attviz.{name}" for name in attviz.__all__ if not name.startswith("_")}
    packages = {"attviz.readings", "attviz.metrics", "attviz.metrics.scores", "attviz.plots", "attviz.io", "attviz.kernels"}
    assert named | packages | {"attviz.integrations", "attviz.errors", "attviz.records"} <= documented


def test_every_error_and_warning_has_its_cause_and_cure():
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    raised = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, (AttvizError, Warning))}
    assert raised - {"AttvizError"} <= set(re.findall(r"^\| `(\w+)", page, re.MULTILINE))


def test_the_numbers_of_the_readme_are_those_of_committed_rows():
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert readme.filled(text) == text, "README.md differs from benchmarks/results: run python -m benchmarks.readme"


def test_a_changed_number_in_the_readme_is_noticed_and_put_right(monkeypatch, tmp_path):
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    changed = re.sub(r"\d+ MiB", "3 MiB", text, count=1)
    assert changed != text
    (tmp_path / "README.md").write_text(changed, encoding="utf-8")
    assert readme.main("--check") == 1
    readme.main()
    assert readme.main("--check") == 0


def test_what_was_not_measured_is_not_in_the_readme(monkeypatch, tmp_path):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert not re.search(r"\d MiB|\d MB", readme.block())


def test_every_question_is_answered_within_two_clicks_of_the_home_page():
    """The home page leads to the questions, and each of these to an answer; Sphinx checks the anchors."""
    assert ":link: questions\n" in (DOCS / "index.md").read_text(encoding="utf-8")
    questions = re.findall(r"^\d+\. .*$", (DOCS / "questions.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(questions) == 45
    for question in questions:
        assert LINK.search(question), question


def test_every_how_to_and_top_page_is_reached_from_the_questions():
    told = (DOCS / "questions.md").read_text(encoding="utf-8")
    for page in (DOCS / "howto").glob("*.md"):
        assert page.stem == "index" or f"howto/{page.name}" in told, page.name


def test_the_tables_of_other_libraries_are_one_click_from_the_supported_models():
    links = LINK.findall((DOCS / "supported-models.md").read_text(encoding="utf-8"))
    assert {"timm-models.md", "diffusers-models.md", "supported-readings.md"} <= set(links)
