"""A data set through a model: texts in, the diagonals of every token, layer and head out."""

import importlib
from typing import Any

from attviz.analysis.comparing import compare
from attviz.analysis.comparison import Comparison, HeadChange
from attviz.analysis.roles import head_roles
from attviz.analysis.run import analyze
from attviz.records import Analysis

_LAZY = {name: "attviz.analysis.statistics" for name in ("Statistics", "accumulate", "join_statistics", "read_statistics")}

__all__ = ["Analysis", "Comparison", "HeadChange", "analyze", "compare", "head_roles", *_LAZY]


def __getattr__(name: str) -> Any:
    """Import what stands on torchmetrics, which is slow to import, when somebody asks for it (PEP 562)."""
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attviz.analysis' has no attribute {name!r}")
