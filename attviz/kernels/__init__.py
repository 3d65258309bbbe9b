"""The diagonal of attention as ``torch.library`` operators: plain torch anywhere, Triton on CUDA and ROCm.

``diagonal_from_*`` return only the diagonal, ``summary_from_*`` also what the same pass yields. All compute in float32 or better, return
float32 in [0, 1], and are outside the autograd graph.
"""

from attviz.kernels.logsumexp import diagonal_from_logsumexp, summary_from_logsumexp, weights_at_keys
from attviz.kernels.passes import facts_from_logsumexp, mass_from_logsumexp, reach_from_logsumexp, received_from_logsumexp
from attviz.kernels.qk import diagonal_from_qk, summary_from_qk
from attviz.kernels.self_score import diagonal_of_bias, rows_of_logsumexp, self_scores, weights_from_scores
from attviz.kernels.summary import AGGREGATES, RowSummary, head_aggregates
from attviz.kernels.tokens import TokenOrder, TokenState, merge_by_token
from attviz.kernels.twins import on_gpu
from attviz.kernels.weights import diagonal_from_weights, summary_from_weights

__all__ = [
    "AGGREGATES",
    "RowSummary",
    "TokenOrder",
    "TokenState",
    "diagonal_from_logsumexp",
    "diagonal_from_qk",
    "diagonal_from_weights",
    "diagonal_of_bias",
    "facts_from_logsumexp",
    "head_aggregates",
    "mass_from_logsumexp",
    "merge_by_token",
    "on_gpu",
    "reach_from_logsumexp",
    "received_from_logsumexp",
    "rows_of_logsumexp",
    "self_scores",
    "summary_from_logsumexp",
    "summary_from_qk",
    "summary_from_weights",
    "weights_at_keys",
    "weights_from_scores",
]
