"""What a forward knows about its tokens: ids, padding and cache, read from the arguments of the model or of one of its towers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from attviz.errors import CaptureError
from attviz.hooks.scope import caches, stack
from attviz.modes import outside_inference
from attviz.names import BEAM_SEARCH, EMBEDDED, FULL_ATTENTION, OTHER_INPUTS, OTHER_STATES, PADDING, POSITIONS, REAL_TOKENS, TOKEN_IDS

TokenSource = Tensor | str | Callable[[tuple[Any, ...], dict[str, Any]], "Tensor | None"]


@dataclass(slots=True, eq=False)
class TokenContext:
    """Tokens of one call of a container.

    Attributes:
        ids: ``[batch, tokens]`` or None; copied, because a caller may reuse the buffer for its next forward (continuous batching).
        mask: ``[batch, cached + tokens]`` as passed to the model, copied; None if there is none.
        mask_marks_padding: The mask is True where the token is padding; otherwise it is non-zero where the token is real.
        past: Tokens in the cache before this call: an int, or a tensor if the cache keeps it on the device.
        cached: Whether this call uses a cache, so that having more keys than queries does not mean cross-attention.
        static: Whether that cache returns buffers of fixed length, with unused slots after the last key.
        length: Number of tokens of this call, if known.
        beams: Whether the rows of the batch are beams, which a beam search reorders between steps.
        given_ids: The ids as they were passed, to recognise them in a tower.
        given_mask: The mask as it was passed.
        registered: Whether the user registered this kind of cache (:func:`attviz.register_cache`).
        positions: ``position_ids`` ``[batch or 1, tokens]`` as they were passed; they restart with each packed text.
    """

    ids: Tensor | None = None
    mask: Tensor | None = None
    past: int | Tensor = 0
    cached: bool = False
    mask_marks_padding: bool = False
    static: bool = False
    length: int | None = None
    beams: bool = False
    positions: Tensor | None = None
    given_ids: Tensor | None = None
    given_mask: Tensor | None = None
    registered: bool = False

    def slot(self, q_len: int, kv_len: int) -> int | Tensor | None:
        """Key slot of query 0 in a cache; None if the cache does not explain the number of keys.

        A growing cache holds everything before, or the last part of it (a sliding window): the queries come last. A static cache
        has them at ``past``, or at its end once a window makes it roll.
        """
        if not self.cached or kv_len < q_len:
            return None
        past, last = self.past, kv_len - q_len
        if isinstance(past, Tensor):
            return past.clamp(max=last)
        return None if last > past and not self.static else min(past, last)

    def ids_of(self, batch: int, q_len: int) -> Tensor | None:
        """Ids of the queries, if they fit; beams and image tiles may repeat the batch."""
        if self.ids is None or tuple(self.ids.shape) != (batch, q_len):
            return None
        return self.ids

    def mask_of(self, batch: int, q_len: int) -> Tensor | None:
        """Which queries are real tokens, if the mask fits them.

        It may cover cached tokens before them, and padding after them that the model cut off (then the mask is longer than ``q_len``).
        """
        mask = self.mask
        if mask is not None and mask.ndim == 4:
            return self._sees_itself(mask, batch, q_len)
        if mask is not None:  # only now: under inference_mode the result would be an inference tensor
            mask = mask.logical_not() if self.mask_marks_padding else mask.to(torch.bool)
        if mask is None or mask.shape[0] != batch or mask.shape[1] < q_len:
            return None
        extra = mask.shape[1] - q_len
        if extra == 0:
            return mask
        if self.cached:
            return mask[:, extra:] if not isinstance(self.past, int) or extra == self.past else None
        return None if bool(mask[:, q_len:].any()) else mask

    def padding_of(self, texts: int, total: int) -> tuple[Tensor, Tensor] | None:
        """Which queries and keys of the padded rows are real, if removing padding by this mask leaves ``total`` packed queries."""
        mask = self.mask
        if mask is None or mask.ndim != 2 or mask.shape[0] != texts:
            return None
        rows = mask[:, -self.length :] if self.cached and self.length is not None else mask  # the rest are tokens of the cache
        if self.length not in (None, rows.shape[1]) or texts * rows.shape[1] < total:
            return None
        keys = _real(mask, self.mask_marks_padding)
        return (keys if rows.shape[1] == keys.shape[1] else keys[:, -rows.shape[1] :]), keys

    def _sees_itself(self, mask: Tensor, batch: int, q_len: int) -> Tensor | None:
        """Which queries may see their own key, according to the precomputed mask of a static cache: all but padding."""
        slot = self.slot(q_len, mask.shape[-1])
        if slot is None or mask.shape[0] not in (1, batch) or mask.shape[-2] != q_len:
            return None
        kept = mask[:, 0] if mask.dtype is torch.bool else mask[:, 0] > -1.0
        own = (torch.arange(q_len, device=mask.device) + slot)[None, :, None].expand(kept.shape[0], -1, 1)
        return kept.gather(-1, own)[..., 0].expand(batch, -1)


class ContextReader:
    """Reads the :class:`TokenContext` of one container from the arguments of its forward."""

    def __init__(self, module: nn.Module, token_source: TokenSource | None) -> None:
        self._names = parameter_names(module)
        self.hears = frozenset(self._names) & frozenset((*TOKEN_IDS, *REAL_TOKENS, *PADDING))
        self._source = token_source
        self.told: bool | None = None  # whether a call of this container said anything that the one around it did not; None before

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any], outer: TokenContext | None) -> TokenContext:
        """Context of this call; what its own arguments do not say is inherited from the call around it."""
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        functorch = torch._C._functorch
        if (
            outer is None
            and functorch.peek_interpreter_stack() is not None
            and any(isinstance(value, Tensor) and functorch.is_batchedtensor(value) for value in given.values())
        ):
            raise CaptureError(
                "capture: the model runs under torch.vmap, which splits one attention into a call per slice. Call the model "
                "on the whole batch, x.flatten(0, 1), instead."
            )
        if args and isinstance(args[0], Mapping):  # a batch handed over as one dictionary (sentence-transformers)
            given.update(args[0])
        ids = self._ids(args, kwargs, given)
        embedded = isinstance(given.get(EMBEDDED), Tensor)
        foreign = not given.keys().isdisjoint(OTHER_INPUTS) and any(isinstance(given.get(name), Tensor) for name in OTHER_INPUTS)
        past, static, cached, registered = caches.cached(given)
        padding = _padding(given)
        mask, marks_padding = (_kept(given), False) if padding is None else (padding, True)
        given_ids, given_mask = ids, mask
        ids = outer.ids if outer is not None and ids is not None and ids is outer.given_ids else _copied(ids)
        if mask is not None and mask.ndim == 2:
            mask = outer.mask if outer is not None and mask is outer.given_mask else _copied(mask)
        length = ids.shape[1] if ids is not None else given[EMBEDDED].shape[1] if embedded else None
        positions = _positions(given)
        if outer is None:
            self.told = True
            beams = cached and _in_beam_search()
            return TokenContext(ids, mask, past, cached, marks_padding, static, length, beams, positions, given_ids, given_mask, registered)
        if positions is None and not foreign:
            positions = outer.positions
        own_cache = cached and not outer.cached
        if not cached:
            past, static, cached, registered = outer.past, outer.static, outer.cached, outer.registered
        if ids is None and embedded:
            ids = outer.ids
            if mask is None and given.get(OTHER_STATES) is None:  # a tower that is given ready-made masks
                mask, marks_padding = outer.mask, outer.mask_marks_padding
        elif ids is None and not foreign and padding is None:
            self.told = bool(self.told) or own_cache or positions is not outer.positions
            rest = (static, outer.length, outer.beams, positions, outer.given_ids, outer.given_mask, registered)
            return TokenContext(outer.ids, outer.mask, past, cached, outer.mask_marks_padding, *rest)
        told = embedded or foreign or ids is not outer.ids or mask is not outer.mask or positions is not outer.positions
        self.told = bool(self.told) or own_cache or told
        rest = (static, length, outer.beams, positions, given_ids, given_mask, registered)
        return TokenContext(ids, mask, past, cached, marks_padding, *rest)

    def _ids(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: dict[str, Any]) -> Tensor | None:
        source = self._source
        if isinstance(source, Tensor):
            return source
        if isinstance(source, str):
            return given.get(source)
        if source is not None:
            return source(args, kwargs)
        for name in TOKEN_IDS:
            if _is_ids(given.get(name)):
                ids: Tensor = given[name]
                return ids
        return args[0] if args and _is_ids(args[0]) else None


def _copied(tensor: Tensor | None) -> Tensor | None:
    """A copy: a caller may reuse the buffer for its next forward (continuous batching)."""
    if tensor is None:
        return None
    with outside_inference():
        return tensor.clone()


_reals = WeakTensorKeyDictionary()  # a forward's own copy of its mask -> (whether it marks padding, which tokens are real)


def _real(mask: Tensor, marks_padding: bool) -> Tensor:
    """Which tokens are real by a mask: one tensor for all layers of a forward."""
    if mask.dtype is torch.bool and not marks_padding:
        return mask
    known = _reals.get(mask)
    if known is None or known[0] is not marks_padding:
        with outside_inference():
            known = _reals[mask] = marks_padding, mask.logical_not() if marks_padding else mask.to(torch.bool)
    real: Tensor = known[1]
    return real


def takes_ids(model: nn.Module, source: TokenSource | None) -> bool:
    """Whether a forward of the model can tell which tokens it has, judging by its parameters."""
    names = parameter_names(model)
    return source is not None or bool(set(names) & set(TOKEN_IDS)) or len(names) <= 2  # a batch, or ids, under any name


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a module's forward, in order."""
    function = getattr(module.forward, "__func__", None)
    if function is None:  # somebody put a function of theirs in place of the method
        return _names_of(module.forward)
    if function not in _known:
        _known[function] = _names_of(function)[1:]
    return _known[function]


_known: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()  # reading a signature takes longer than hooking the module


def _names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def _is_ids(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point() and value.dtype is not torch.bool


def _padding(given: dict[str, Any]) -> Tensor | None:
    for name in PADDING:
        value = given.get(name)
        if isinstance(value, Tensor) and value.ndim == 2 and value.dtype is torch.bool:
            return value
    return None


def _positions(given: dict[str, Any]) -> Tensor | None:
    value = given.get(POSITIONS)
    return value if isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] > 1 else None


def _kept(given: dict[str, Any]) -> Tensor | None:
    for name in REAL_TOKENS:
        value = given.get(name)
        if isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point():
            return value
        if isinstance(value, dict):  # one ready-made mask for each kind of layer
            value = value.get(FULL_ATTENTION, next(iter(value.values()), None))
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == 1 and caches.cached(given).static:
            return value
    return None


def _in_beam_search() -> bool:
    """Whether transformers' beam search runs this forward: its steps cannot be joined without the beam indices."""
    return stack.runs_in(BEAM_SEARCH, depth=64)
