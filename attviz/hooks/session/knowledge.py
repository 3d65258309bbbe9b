"""What a call can know about its tokens: the ids of its keys, including those in a cache, and which are real."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attviz.calls import AttentionCall
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.padding import Hidden, shown_queries
from attviz.hooks.session.step import Step
from attviz.readings import Tokens

if TYPE_CHECKING:
    from jaxtyping import Bool


class TokenKnowledge:
    """Follows the token ids of a generation from step to step, so that the keys of a cache have ids."""

    def __init__(self, special_ids: tuple[int, ...]) -> None:
        self._special_ids = special_ids
        self._history: Tensor | None = None  # ids of the sequence so far, the running step's included
        self._last: TokenContext | None = None

    def of(
        self,
        call: AttentionCall,
        context: TokenContext | None,
        step: Step,
        documents: Tensor | None,
        hidden: Hidden | bool | None = None,
        *,
        cross: bool = False,
    ) -> Tokens:
        """Tokens of one call; computed once for all layers of one shape, except what the operator's own mask hides."""
        batch, _, q_len, kv_len = call.shape
        offset = call.kv_offset
        key = (id(context), id(documents), batch, q_len, kv_len, offset if isinstance(offset, int) else id(offset), cross)
        tokens = step.tokens.get(key)
        if tokens is None:
            tokens = step.tokens[key] = Tokens(document_ids=documents, special_ids=self._special_ids, past=offset)
            if context is not None:
                self._read(tokens, context, batch, q_len, kv_len, cross)
        real = shown_queries(tokens.real, hidden, batch, q_len)
        if real is tokens.real:
            return tokens
        real_keys = real if q_len == kv_len else tokens.real_keys
        return replace(tokens, real=real, real_keys=_own_among_others(real, kv_len, offset) if real_keys is None else real_keys)

    def _read(self, tokens: Tokens, context: TokenContext, batch: int, q_len: int, kv_len: int, cross: bool) -> None:
        tokens.ids, real = context.ids_of(batch, q_len), context.mask_of(batch, q_len)
        if real is not None:  # a nested batch is as long as its longest text; the mask goes on
            tokens.real, tokens.length = real[:, :q_len], real.shape[1]
        if cross:
            return
        tokens.real_keys = _real_keys(context, batch, q_len, kv_len, tokens.past, tokens.real)
        if context.ids is not None and context is not self._last:
            self._last = context
            self._history = self._continued(context)
        known = self._history if tokens.ids is not None else None
        if known is None or known.shape[0] != batch:
            return
        missing = kv_len - known.shape[1]
        tokens.key_ids = torch.nn.functional.pad(known, (0, missing), value=-1) if missing > 0 else known[:, -kv_len:]

    def _continued(self, context: TokenContext) -> Tensor | None:
        ids, past, held = context.ids, context.past, self._history
        assert ids is not None
        if ids.ndim != 2 or context.beams or isinstance(past, Tensor):  # rows change places; only the device knows how many came before
            return None
        if past == 0:
            return ids.clone()
        if held is None or held.shape[0] != ids.shape[0] or held.shape[1] < past:
            return None
        return torch.cat([held[:, :past], ids.to(held.device)], 1)


def _real_keys(
    context: TokenContext, batch: int, q_len: int, kv_len: int, offset: int | Tensor, real: Tensor | None
) -> Bool[Tensor, "batch kv_len"] | None:
    """Which keys are real tokens, by the mask that the model was given."""
    mask = context.mask
    if mask is None:
        return None
    if q_len == kv_len and real is not None:
        return real
    if mask.ndim == 4 and mask.shape[-1] == kv_len and mask.shape[0] in (1, batch):
        kept = mask[:, 0] if mask.dtype is torch.bool else mask[:, 0] > -1.0
        return kept.any(1).expand(batch, kv_len)
    if mask.ndim != 2 or mask.shape[0] != batch:
        return None
    kept = mask.logical_not() if context.mask_marks_padding else mask.to(torch.bool)
    if mask.shape[1] == kv_len:
        return kept
    return _in_slots(kept, context, q_len, kv_len, offset) if context.cached else _own_among_others(real, kv_len, offset)


def _own_among_others(real: Tensor | None, kv_len: int, offset: int | Tensor) -> Tensor | None:
    """Keys of which only the queries' own may be known to be padding."""
    if real is None or isinstance(offset, Tensor) or not 0 <= offset <= kv_len - real.shape[1]:
        return None
    return torch.nn.functional.pad(real, (offset, kv_len - real.shape[1] - offset), value=True)


def _in_slots(kept: Tensor, context: TokenContext, q_len: int, kv_len: int, offset: int | Tensor) -> Tensor | None:
    """A mask of all tokens so far, as one of the slots of a cache: a static one has unused slots behind, a window has dropped tokens.

    The last token of the mask is the last query, so the queries' own slots, from ``offset`` on, say where the others are.
    """
    before = kept.shape[1] - q_len
    if isinstance(context.past, int) and before != context.past:
        return None
    if isinstance(offset, Tensor):  # only the device knows how many there are
        index = torch.arange(kv_len, device=offset.device) - offset.reshape(-1, 1) + before
        held = kept.to(offset.device).gather(1, index.clamp(0, kept.shape[1] - 1).expand(kept.shape[0], -1))
        return held & (index >= 0) & (index < kept.shape[1])
    dropped = before - offset
    if dropped < 0 or (dropped and offset + q_len != kv_len):
        return None
    return torch.nn.functional.pad(kept[:, dropped:], (0, kv_len - q_len - offset), value=False)
