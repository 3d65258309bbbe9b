"""``attviz.check``: an independent reference beside every number, on a model that nobody knew."""

from attviz.checking.result import Check, LayerCheck
from attviz.checking.run import check

__all__ = ["Check", "LayerCheck", "check"]
