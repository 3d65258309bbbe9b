"""What a forward knows of its tokens: ids, padding and cache, read off the arguments of the model or of one of its towers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TokenSource = Tensor | str | Callable[[tuple[Any, ...], dict[str, Any]], "Tensor | None"]

_IDS = ("input_ids", "decoder_input_ids", "idx", "tokens", "token_ids", "ids")
_KEPT = ("attention_mask", "decoder_attention_mask")  # True where the token is real
_PADDED = ("src_key_padding_mask", "key_padding_mask", "tgt_key_padding_mask")  # True where it is padding
_OTHER_INPUTS = ("pixel_values", "input_features", "input_values", "pixel_values_videos")
_CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params")


@dataclass(slots=True, eq=False)
class TokenContext:
    """Tokens of one call of a container.

    Attributes:
        ids: ``[batch, tokens]`` or None.
        mask: ``[batch, cached + tokens]`` as the model was given it; None where it was given none.
        mask_marks_padding: The mask is True where the token is padding; else it is non-zero where the token is real.
        past: Tokens in the cache before this call: an int, or a tensor where the cache keeps it on the device.
        cached: Whether a cache takes part in this call, so that more keys than queries do not mean cross-attention.
    """

    ids: Tensor | None = None
    mask: Tensor | None = None
    past: int | Tensor = 0
    cached: bool = False
    mask_marks_padding: bool = False

    def ids_of(self, batch: int, q_len: int) -> Tensor | None:
        """Ids of the queries, where they fit; beams and image tiles may repeat the batch."""
        if self.ids is not None and tuple(self.ids.shape) == (batch, q_len):
            return self.ids
        return None

    def mask_of(self, batch: int, q_len: int) -> Tensor | None:
        """Which queries are real tokens, where the mask fits them.

        It may cover cached tokens before them, and padding behind them that the model cut off (then the mask is longer than ``q_len``).
        """
        mask = self.mask
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


class ContextReader:
    """Reads the :class:`TokenContext` of one container from the arguments of its forward."""

    def __init__(self, module: nn.Module, token_source: TokenSource | None) -> None:
        self._names = parameter_names(module)
        self._source = token_source

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any], outer: TokenContext | None) -> TokenContext:
        """Context of this call; what it does not say itself is inherited from the call around it."""
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        ids = self._ids(args, kwargs, given)
        embedded = isinstance(given.get("inputs_embeds"), Tensor)
        foreign = any(isinstance(given.get(name), Tensor) for name in _OTHER_INPUTS)
        past, cached = _past(given)
        padding = _padding(given)
        mask = _kept(given) if padding is None else padding
        if outer is None or ids is not None or embedded or foreign or padding is not None:
            if ids is None and embedded and outer is not None:
                ids = outer.ids
            return TokenContext(ids, mask, past, cached or (outer is not None and outer.cached), padding is not None)
        if not cached:
            past, cached = outer.past, outer.cached
        return TokenContext(outer.ids, outer.mask, past, cached, outer.mask_marks_padding)

    def _ids(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: dict[str, Any]) -> Tensor | None:
        source = self._source
        if isinstance(source, Tensor):
            return source
        if isinstance(source, str):
            return given.get(source)
        if source is not None:
            return source(args, kwargs)
        for name in _IDS:
            if _is_ids(given.get(name)):
                ids: Tensor = given[name]
                return ids
        return args[0] if args and _is_ids(args[0]) else None


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a module's forward, in order."""
    try:
        return tuple(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return ()


def _is_ids(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point() and value.dtype is not torch.bool


def _padding(given: dict[str, Any]) -> Tensor | None:
    for name in _PADDED:
        value = given.get(name)
        if isinstance(value, Tensor) and value.ndim == 2 and value.dtype is torch.bool:
            return value
    return None


def _kept(given: dict[str, Any]) -> Tensor | None:
    for name in _KEPT:
        value = given.get(name)
        if isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point():
            return value
    return None


def _past(given: dict[str, Any]) -> tuple[int | Tensor, bool]:
    for name in _CACHES:
        cache = given.get(name)
        if cache is None:
            continue
        length = cache.get_seq_length() if hasattr(cache, "get_seq_length") else 0
        if isinstance(length, Tensor):  # a static cache counts on its device, and in place
            return (int(length) if length.device.type == "cpu" else length.clone()), True
        return int(length), True
    return 0, bool(given.get("use_cache"))
