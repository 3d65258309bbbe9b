"""A data set through a model: texts in, the diagonals of every token, layer and head out."""

from attviz.analysis.comparing import compare
from attviz.analysis.comparison import Comparison, HeadChange
from attviz.analysis.roles import head_roles
from attviz.analysis.run import analyze
from attviz.records import Analysis

__all__ = ["Analysis", "Comparison", "HeadChange", "analyze", "compare", "head_roles"]
