"""What a pass in torch works on at a time: one sequence, or on a CPU several short texts, with the heads of all of them in one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attviz.kernels.qk import QkRules, each_sequence
from attviz.kernels.weight_tiles import texts_of_a_tile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from attviz.kernels.blocked_softmax import ScoreRules


class Part(NamedTuple):
    """One sequence, or several texts whose heads follow one another.

    Attributes:
        texts: Its batch elements.
        queries: Its queries.
        keys: Its keys.
        query: ``[heads, q_len, head_dim]``.
        key: ``[kv_heads, kv_len, head_dim]``.
        logsumexp: ``[heads, q_len]``.
        rules: How logits are computed and which are visible.
    """

    texts: slice
    queries: slice
    keys: slice
    query: Tensor
    key: Tensor
    logsumexp: Tensor
    rules: ScoreRules

    def of_each(self, given: Tensor, span: slice) -> Tensor:
        """A part of what each text, or all of them, have along a sequence ``[batch or 1, length, ...]``, ready for its heads."""
        here = (given[self.texts] if len(given) > 1 else given)[:, span]
        return here if len(here) == 1 else here.repeat_interleave(len(self.query) // len(here), 0)


def parts(query: Tensor, key: Tensor, logsumexp: Tensor, rules: QkRules) -> Iterator[Part]:
    """All of a batch. Short texts are taken together, because the operators of each would cost more than their arithmetic."""
    batch, num_heads, q_len, _ = query.shape
    kv_len, together = key.shape[2], 1
    if query.device.type == "cpu" and rules.cu_seqlens_q is None and rules.key_mask is None and rules.alibi_slopes is None:
        together = min(batch, texts_of_a_tile(num_heads * q_len * kv_len))
    if together <= 1:
        for b, queries, keys, score_rules in each_sequence(query, key, rules):
            here = query[b, :, queries], key[b, :, keys], logsumexp[b, :, queries]
            yield Part(slice(b, b + 1), queries, keys, *here, score_rules)
        return
    score_rules = next(each_sequence(query, key, rules))[3]
    for first in range(0, batch, together):
        texts = slice(first, min(first + together, batch))
        joined = query[texts].flatten(0, 1), key[texts].flatten(0, 1), logsumexp[texts].flatten(0, 1)
        bias = None if rules.bias is None else _joined(rules.bias, texts, num_heads)
        yield Part(texts, slice(0, q_len), slice(0, kv_len), *joined, score_rules._replace(bias=bias))


def _joined(bias: Tensor, texts: slice, num_heads: int) -> Tensor:
    """The bias of some texts as one of all their heads; a copy, but none larger than a tile."""
    bias = bias[(None,) * (4 - bias.dim())]
    if bias.shape[:2] == (1, 1):
        return bias[0]
    here = bias[texts] if bias.shape[0] > 1 else bias
    return here.expand(texts.stop - texts.start, num_heads, -1, -1).flatten(0, 1)
