"""attviz: the diagonal of self-attention, in any transformer, while it runs.

    with attviz.capture(model) as cap:
        model(**batch)
    cap.diagonal                          # [num_layers, batch, num_heads, q_len], on the model's device
    attviz.metrics.mean(cap.diagonal)     # [batch, q_len]

Names load on first use: ``import attviz`` imports torch and nothing else that is heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

from attviz._capture import Capture, capture
from attviz._version import __version__

__all__ = [
    "Analysis",
    "Capture",
    "Check",
    "Comparison",
    "Page",
    "__version__",
    "analyze",
    "capture",
    "check",
    "compare",
    "head_roles",
    "insights",
    "pairs",
    "register_cache",
    "register_layout",
    "register_operator",
    "view",
]

_HOMES = {
    "Analysis": "attviz.analysis",
    "Check": "attviz.checking",
    "Page": "attviz.viewer",
    "Comparison": "attviz.analysis",
    "analyze": "attviz.analysis",
    "check": "attviz.checking",
    "compare": "attviz.analysis",
    "head_roles": "attviz.analysis",
    "insights": "attviz._insights",
    "pairs": "attviz.analysis.pairs",
    "register_cache": "attviz.hooks.scope.caches",
    "register_layout": "attviz.calls.layouts",
    "register_operator": "attviz.hooks.tap.operators",
    "view": "attviz.viewer",
}
_PACKAGES = ("calls", "checking", "hooks", "integrations", "io", "kernels", "metrics", "plots", "readings", "viewer")


def __getattr__(name: str) -> Any:
    """Import a public name or a subpackage on first use (PEP 562)."""
    if name in _PACKAGES:
        return importlib.import_module(f"attviz.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attviz' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})
