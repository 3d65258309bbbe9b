"""Two processes: with TRITON_INTERPRET=1 the kernels run on the CPU but cannot be compiled, without it the other way round."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
COMPILED_ONLY = ("test_compile.py", "test_ptx.py")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Collect what this process can run, and nothing else: nothing is skipped."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    return True if (collection_path.name in COMPILED_ONLY) == INTERPRETED else None


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the kernels small blocks, so that small shapes take several of them."""
    from attviz.kernels.triton import logsumexp, pairs

    def use(**blocks: Any) -> None:
        for home in (logsumexp, pairs):
            known = {name: size for name, size in blocks.items() if home is not logsumexp or name == "BLOCK_Q"}
            monkeypatch.setattr(home, "tuned", lambda *_, known=known: dict(known))

    return use
