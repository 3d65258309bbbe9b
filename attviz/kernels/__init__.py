"""The diagonal of attention as ``torch.library`` operators: plain torch anywhere, Triton on CUDA and ROCm."""

from attviz.kernels.self_score import diagonal_of_bias, rows_of_logsumexp, self_scores, weights_from_scores

__all__ = ["diagonal_of_bias", "rows_of_logsumexp", "self_scores", "weights_from_scores"]
