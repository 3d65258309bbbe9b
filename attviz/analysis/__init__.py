"""A data set through a model: texts in, the diagonals of every token, layer and head out."""

import importlib
from typing import TYPE_CHECKING, Any

from attviz.records import Analysis

if TYPE_CHECKING:
    from attviz.analysis.comparing import compare
    from attviz.analysis.comparison import Comparison, HeadChange
    from attviz.analysis.roles import head_roles
    from attviz.analysis.run import analyze
    from attviz.analysis.statistics import Statistics, accumulate, join_statistics, read_statistics

_PLACES = {
    "Comparison": "comparison",
    "HeadChange": "comparison",
    "Statistics": "statistics",
    "accumulate": "statistics",
    "analyze": "run",
    "compare": "comparing",
    "head_roles": "roles",
    "join_statistics": "statistics",
    "read_statistics": "statistics",
}

__all__ = [
    "Analysis",
    "Comparison",
    "HeadChange",
    "Statistics",
    "accumulate",
    "analyze",
    "compare",
    "head_roles",
    "join_statistics",
    "read_statistics",
]


def __getattr__(name: str) -> Any:
    """Import a member on first use (PEP 562): what stands on torchmetrics takes seconds."""
    if name in _PLACES:
        value = getattr(importlib.import_module(f"attviz.analysis.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attviz.analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
