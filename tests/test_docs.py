"""The snippets of the documentation run as they stand, in order, in one namespace per page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize(("page", "count"), [("your-own-model.md", 5), ("pairs.md", 2)])
def test_snippets_run(page, count):
    snippets = FENCE.findall((DOCS / page).read_text(encoding="utf-8"))
    assert len(snippets) == count
    names: dict[str, object] = {"__name__": "page"}
    with torch.no_grad():
        for snippet in snippets:
            exec(compile(snippet, page, "exec"), names)
