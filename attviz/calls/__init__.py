"""Where attention numbers are computed: four kinds of call answer the same questions, each as cheaply as it can."""

from attviz.calls.banded import DiagonalCall
from attviz.calls.call import AttentionCall, RowFacts
from attviz.calls.fused import FusedCall
from attviz.calls.packed import PackedCall
from attviz.calls.padded import PaddedCall
from attviz.calls.scored import ScoredCall
from attviz.calls.softmax import SoftmaxCall

__all__ = ["AttentionCall", "DiagonalCall", "FusedCall", "PackedCall", "PaddedCall", "RowFacts", "ScoredCall", "SoftmaxCall"]
