"""attviz inside other frameworks: a monitor for any loop, callbacks for the transformers Trainer and for Lightning, stages for Ray Data.

The frameworks are imported when their callback is first used; the stages are in :mod:`attviz.integrations.ray`.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "AttentionCallback": "attviz.integrations.trainer_callback",
    "AttentionMonitor": "attviz.integrations.monitor",
    "LightningAttentionCallback": "attviz.integrations.lightning_callback",
}

__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    """Import a callback on first use (PEP 562)."""
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attviz.integrations' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
