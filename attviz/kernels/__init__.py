"""The diagonal of attention as ``torch.library`` operators: plain torch anywhere, Triton on CUDA and ROCm."""

from attviz.kernels.self_score import diagonal_of_bias, rows_of_logsumexp, self_scores, weights_from_scores
from attviz.kernels.summary import AGGREGATES, RowSummary, head_aggregates
from attviz.kernels.tokens import TokenOrder, TokenState, merge_by_token

__all__ = [
    "AGGREGATES",
    "RowSummary",
    "TokenOrder",
    "TokenState",
    "diagonal_of_bias",
    "head_aggregates",
    "merge_by_token",
    "rows_of_logsumexp",
    "self_scores",
    "weights_from_scores",
]
