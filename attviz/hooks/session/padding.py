"""Which queries are padding: according to the operator's own mask, and to the model's mask where the two agree."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attviz.calls import AttentionCall
from attviz.calls.banded import DiagonalCall
from attviz.calls.fused import FusedCall
from attviz.calls.scored import ScoredCall
from attviz.calls.softmax import SoftmaxCall
from attviz.hooks.session.opened import may_be_opened, opened_padding
from attviz.kernels import diagonal_of_bias, on_gpu

_HIDDEN = -9e3  # what hides a key is -1e4 (the oldest half precision masks) or less; a bias that means something is far above
_FEW = 1 << 24  # pairs of a query and a key, all heads together: so many a mask function may be asked about at once


class Hidden(NamedTuple):
    """What hides keys: copied while the operator ran, and interpreted when it is read.

    Attributes:
        own: For each query's own key: scores, or a bool or additive mask, ``[..., heads, q_len]``.
        last: The same keys, as seen by the last query.
        weights: Whether these are weights, where 0 means hidden.
        best: The most visible entry of each query's own key over all queries; None if not requested, or if nothing is hidden.
        opened: Padding that is left its own key to look at, ``[batch, q_len]``; None if not requested, or if it cannot be.
    """

    own: Tensor
    last: Tensor | None
    weights: bool = False
    best: Tensor | None = None
    opened: Tensor | None = None

    def read(self, which: Tensor, batch: int, q_len: int) -> Tensor:
        """True where a key is hidden in all heads, ``[batch, q_len]``."""
        hidden = which == 0 if self.weights else _hides(which)
        hidden = hidden[(None,) * (3 - hidden.ndim)]
        return hidden.all(1).expand(batch, q_len)


def hidden_keys(call: AttentionCall, with_last: bool, added: Tensor | None = None, sparse: bool = False) -> Hidden | bool | None:
    """What the operator's mask hides; a bool (whether it is causal) if there is none, None if it is unknown.

    Args:
        call: A self-attention.
        with_last: Whether what the last query sees is needed, too.
        added: A copy of the mask at each query's own key, if there is one already.
        sparse: Whether the mask may hide a token from itself that others see (graphs, top-k), so that all queries must be checked.
    """
    if isinstance(call, DiagonalCall):
        return None if call.scores is None else Hidden(call.scores.clone(), None)
    offset = call.kv_offset
    if not isinstance(offset, int):
        return None
    call = call.whole or call
    if isinstance(call, ScoredCall):
        return _of_functions(call, with_last, sparse)
    if isinstance(call, FusedCall):
        if call.bias is None:
            return call.is_causal
        scores, weights = call.bias, False
    elif isinstance(call, SoftmaxCall):
        scores, weights = (call.weights, True) if call.logits is None else (call.logits, False)
    else:
        return None
    q_len = call.shape[2]
    scores = scores.detach()
    own = diagonal_of_bias(scores, q_len, offset).clone() if added is None else added
    last = None
    if with_last:
        row = scores if scores.ndim == 1 else scores[..., -1, :]
        last = (row if row.shape[-1] == 1 else row[..., offset : offset + q_len]).clone()
    if not sparse:
        return Hidden(own, last, weights)
    keys = slice(offset, offset + q_len)
    return Hidden(own, last, weights, _best(scores, own, weights, keys), _opened(scores, weights, keys, call.shape[0]))


def _of_functions(call: ScoredCall, with_last: bool, sparse: bool) -> Hidden | bool | None:
    """What the functions of flex_attention hide: on the CPU either of them, on a GPU the mask, which all layers share."""
    if call.block_mask is None and call.score_mod is None:
        return False
    q_len, device = call.shape[2], call.device
    rows = torch.arange(q_len, device=device)
    keys = (call.own_keys()[..., :1] + rows).clamp(0, call.shape[3] - 1)[..., None, :]
    if on_gpu(call.query):
        own = None if sparse and call.shape[0] * call.shape[1] * q_len**2 > _FEW else call.seen()
        if own is None:
            return None
        last = call.once("last", lambda: call.mask_of(rows[-1:], keys)[..., 0, :]) if with_last else None
        return Hidden(own, last, best=call.once("best", lambda: call.mask_of(rows, keys).any(2)) if sparse else None)

    def added(some: Tensor, to: Tensor) -> Tensor:
        scores = torch.zeros(*call.shape[:2], len(some), to.shape[-1], device=device)
        return call.modify(scores, some[None, None, :, None], to)

    own = added(rows, keys.mT)[..., 0]
    last = added(rows[-1:], keys)[..., 0, :] if with_last else None
    if not sparse or not bool(_hides(own).any()):
        return Hidden(own, last)
    blocks = rows.split(max(1, _FEW // own.numel()))
    best = torch.stack([added(block, keys).amax(2) for block in blocks]).amax(0)
    following = added(rows[:-1], keys[..., 1:].mT)[..., 0]
    return Hidden(own, last, best=_unless_causal(own, best, _hides(own), _hides(following)))


def _opened(scores: Tensor, weights: bool, keys: slice, batch: int) -> Tensor | None:
    """Padding that is left its own key to look at, where the mask is one of queries by keys and not the same for all texts."""
    if (
        scores.ndim < 4
        or scores.shape[0] != batch
        or batch == 1
        or not scores.shape[-2] == keys.stop - keys.start > 1
        or not scores.numel()
    ):
        return None
    square = scores[..., keys]

    def shown(part: Tensor) -> Tensor:
        return (part != 0 if weights else _hides(part).logical_not()).any(1)

    if scores.device.type == "cpu":  # elsewhere nobody waits for the answer
        if square.stride(-2) == 0 or not may_be_opened(shown(square.diagonal(1, -2, -1)), shown(square.diagonal(-1, -2, -1))):
            return None
    return opened_padding(shown(square), batch)


def _best(scores: Tensor, own: Tensor, weights: bool, keys: slice) -> Tensor | None:
    if scores.ndim < 2 or scores.shape[-1] == 1 or scores.shape[-2] == 1 or not scores.stride(-2):
        return None  # all queries see the same keys
    if scores.device.type == "cpu" and not bool((own == 0 if weights else _hides(own)).any()):
        return None  # elsewhere nobody waits for the answer
    seen = scores[..., keys]
    best = seen.any(-2) if seen.dtype is torch.bool else seen.amax(-2)
    following = seen.diagonal(1, -2, -1)
    return _unless_causal(own, best, own == 0 if weights else _hides(own), following == 0 if weights else _hides(following))


def _unless_causal(own: Tensor, best: Tensor, own_hidden: Tensor, next_hidden: Tensor) -> Tensor:
    """``best``, unless no token sees itself or the next one: there the last token is seen by nobody, as padding is."""
    return torch.where(own_hidden.all() & next_hidden.all(), own, best)


def real_queries(given: Tensor | None, hidden: Hidden | bool | None, batch: int, q_len: int) -> Tensor | None:
    """True where the query is a real token, ``[batch, q_len]``; None if nothing says that one is not. Waits for the device."""
    real = shown_queries(given, hidden, batch, q_len)
    return None if given is None and real is not None and bool(real.all()) else real


def shown_queries(given: Tensor | None, hidden: Hidden | bool | None, batch: int, q_len: int) -> Tensor | None:
    """True where the query is a real token, ``[batch, q_len]``; None if nothing could say that one is not.

    A query whose own key is hidden is padding, unless that is so for every token (attention that excludes the token itself). Models that
    let rows of padding see all keys hide those keys from the real queries: there the model's mask says which they are. A model's mask that
    hides nothing here belongs to other tokens.
    """
    if hidden is None:
        return given
    if given is not None and given.shape[1] != q_len:
        return given
    if isinstance(hidden, bool):  # no mask: that of other tokens, where the attention is causal (True); else the model's, which it ignores
        return None if hidden or _is_causal(given) else given
    own = hidden.read(hidden.own, batch, q_len)
    if hidden.opened is not None:
        own = own | hidden.opened
    everywhere = own.all()  # stays on the device: readings ask while the model runs
    if hidden.best is not None:  # a token hidden from itself that another token sees is none
        own = own & hidden.read(hidden.best, batch, q_len)
    # where no token sees itself, padding is what nobody sees, unless that is so in all texts alike: then it is hidden by the structure
    padding = own & (everywhere.logical_not() | (own != own[:1]).any())
    if given is None:
        return padding.logical_not()
    given = given.to(own.device)
    if hidden.last is None:
        return given & padding.logical_not()
    shown = hidden.read(hidden.last, batch, q_len).logical_not()
    # that the last query sees itself says nothing of its key; if it sees other padding, the mask is one of other tokens
    contradicted = (shown & given.logical_not())[:, :-1].any()
    shown = torch.cat([shown[:, :-1], shown[:, -1:] & contradicted], 1)
    seen = given | shown
    return torch.where(everywhere, given, seen & own.logical_not())


def last_visible(scores: Tensor | None, q_len: int, kv_len: int) -> int:
    """The last key that the last query sees: its own, under a causal mask. Waits for the device; used for modules that the user named."""
    if scores is None or scores.shape[-1] != kv_len:
        return kv_len - 1
    last = scores.detach() if scores.ndim == 1 else scores.detach()[..., -1, :]
    seen = _hides(last).logical_not().reshape(-1, kv_len).any(0).nonzero()
    return int(seen[-1]) if len(seen) and int(seen[-1]) >= q_len - 1 else kv_len - 1


def _is_causal(given: Tensor | None) -> bool:
    """Whether what looks like padding is a causal mask with as many texts as tokens."""
    return given is not None and given.shape[0] == given.shape[1] and torch.equal(given, torch.ones_like(given).tril())


def _hides(scores: Tensor) -> Tensor:
    return scores.logical_not() if scores.dtype is torch.bool else scores <= _HIDDEN
