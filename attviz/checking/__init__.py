"""``attviz.check``: compares every number with an independent reference, even for a model nobody has seen."""

from attviz.checking.result import Check, LayerCheck
from attviz.checking.run import check

__all__ = ["Check", "LayerCheck", "check"]
