"""Which queries are padding: by the mask the operator itself worked with, and by the one the model was given where the two agree."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attviz.calls import AttentionCall
from attviz.calls.fused import FusedCall
from attviz.calls.softmax import SoftmaxCall

_HIDDEN = -9e3  # what hides a key is -1e4 (the oldest half precision masks) or less; a bias that means something is far above


class Hidden(NamedTuple):
    """Which keys are hidden, in all heads.

    Attributes:
        own: Of each query, its own key: ``[batch or 1, q_len]``.
        last: Of each query, its own key from the last query: ``[batch or 1, q_len]``.
    """

    own: Tensor
    last: Tensor


def hidden_keys(call: AttentionCall) -> Hidden | bool | None:
    """What the operator's mask hides; a bool (whether it is causal) where there is none, None where it cannot be told."""
    offset = call.kv_offset
    if not isinstance(offset, int):
        return None
    if isinstance(call, FusedCall):
        return call.is_causal if call.bias is None else _of_scores(call.bias, call.shape[2], offset)
    if isinstance(call, SoftmaxCall):
        return _of_weights(call.weights, call.shape[2], offset) if call.logits is None else _of_scores(call.logits, call.shape[2], offset)
    return None


def real_queries(given: Tensor | None, hidden: Hidden | bool | None, batch: int, q_len: int) -> Tensor | None:
    """True where the query is a real token, ``[batch, q_len]``; None where nothing says that one is not.

    A query whose own key is hidden is padding, unless that is so for every token (attention that looks away from itself). Models that open
    rows of padding to all keys hide those keys from the real queries: there the mask that the model was given says which they are. A given
    mask that hides nothing here is one of other tokens.
    """
    if hidden is None:
        return given
    if given is not None and given.shape[1] != q_len:
        return given
    if isinstance(hidden, bool):  # no mask: that of other tokens, where the attention is causal (True); else the model's, which it ignores
        return None if hidden or _is_causal(given) else given
    own, last = (part.expand(batch, q_len) for part in hidden)
    if bool(own.all()):
        return given
    if given is None:
        return None if not bool(own.any()) else own.logical_not()
    given = given.to(own.device)
    return torch.where(own, False, given | last.logical_not())


def last_visible(scores: Tensor | None, q_len: int, kv_len: int) -> int:
    """The last key that the last query sees: its own, under a causal mask. Waits for the device; for modules that a user named."""
    if scores is None or scores.shape[-1] != kv_len:
        return kv_len - 1
    last = scores.detach() if scores.ndim == 1 else scores.detach()[..., -1, :]
    seen = _hides(last).logical_not().reshape(-1, kv_len).any(0).nonzero()
    return int(seen[-1]) if len(seen) and int(seen[-1]) >= q_len - 1 else kv_len - 1


def _of_scores(scores: Tensor, q_len: int, offset: int) -> Hidden:
    scores = scores.detach()[(None,) * (4 - scores.ndim)]
    columns = scores if scores.shape[-1] == 1 else scores[..., offset : offset + q_len]
    last = columns[..., -1, :]
    if columns.shape[-2] == 1 or columns.shape[-1] == 1:
        own = columns[..., 0] if columns.shape[-1] == 1 else last
    else:
        own = columns.diagonal(0, -2, -1)
    return Hidden(*(_hides(part).all(1).expand(-1, q_len) for part in (own, last)))


def _is_causal(given: Tensor | None) -> bool:
    """Whether what looks like padding is a causal mask of as many texts as tokens."""
    return given is not None and given.shape[0] == given.shape[1] and torch.equal(given, torch.ones_like(given).tril())


def _hides(scores: Tensor) -> Tensor:
    return scores.logical_not() if scores.dtype is torch.bool else scores <= _HIDDEN


def _of_weights(weights: Tensor, q_len: int, offset: int) -> Hidden:
    weights = weights.detach()
    own = weights.diagonal(offset, -2, -1)[..., :q_len]
    return Hidden(*((part == 0).all(1) for part in (own, weights[..., -1, offset : offset + q_len])))
