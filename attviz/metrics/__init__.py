"""Statistics of a diagonal: functions per token, streaming statistics, and similarities between heads.

The functions are light. The streaming classes need torchmetrics, which is slow to import, so they load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from attviz.metrics import scores
from attviz.metrics.aggregates import TokenAggregates, aggregate, max, mean, min, range, std
from attviz.metrics.entropies import entropy
from attviz.metrics.fuji import Fuji, FujiNull, fuji, fuji_matrix, fuji_null
from attviz.metrics.lifts import lift

_LAZY = {
    "Alarm": "attviz.metrics.alarms",
    "AttentionHealth": "attviz.metrics.attention_health",
    "HeadRoles": "attviz.metrics.head_roles",
    "HeadStatistics": "attviz.metrics.head_statistics",
    "HeadTable": "attviz.metrics.head_statistics",
    "HealthTable": "attviz.metrics.health_table",
    "RolesTable": "attviz.metrics.roles_table",
    "TokenStatistics": "attviz.metrics.token_statistics",
    "VocabularyStatistics": "attviz.metrics.vocabulary_statistics",
    "VocabularyTable": "attviz.metrics.vocabulary_table",
}

__all__ = [
    "Fuji",
    "FujiNull",
    "TokenAggregates",
    "aggregate",
    "entropy",
    "fuji",
    "fuji_matrix",
    "fuji_null",
    "lift",
    "max",
    "mean",
    "min",
    "range",
    "scores",
    "std",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    """Import a heavy member on first use (PEP 562)."""
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attviz.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
