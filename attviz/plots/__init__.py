"""Figures: NumPy in, matplotlib ``Axes`` out. Nothing here shows, saves, or changes global settings.

Each function takes its data first and everything else by keyword. It draws on ``ax`` if given one, and otherwise makes a figure of
a suitable size. Colours are safe for the colour-blind, and the same input always gives the same picture.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attviz.plots._aggregates import aggregates
    from attviz.plots._distributions import distributions
    from attviz.plots._head_changes import head_changes
    from attviz.plots._head_curves import head_curves
    from attviz.plots._head_map import head_map
    from attviz.plots._head_roles import head_roles
    from attviz.plots._head_similarity import head_similarity
    from attviz.plots._image_map import image_map
    from attviz.plots._quantiles import quantiles
    from attviz.plots._sequence import sequence
    from attviz.plots._series import series
    from attviz.plots._token_bars import token_bars
    from attviz.plots._word_clouds import word_clouds

__all__ = [
    "aggregates",
    "distributions",
    "head_changes",
    "head_curves",
    "head_map",
    "head_roles",
    "head_similarity",
    "image_map",
    "quantiles",
    "sequence",
    "series",
    "token_bars",
    "word_clouds",
]


def __getattr__(name: str) -> Any:
    """Import a figure, and with it matplotlib, on first use (PEP 562)."""
    if name in __all__:
        figure = getattr(importlib.import_module(f"attviz.plots._{name}"), name)
        globals()[name] = figure
        return figure
    raise AttributeError(f"module 'attviz.plots' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
