"""Mass on a set of keys: the first ones (the sink), special tokens, a custom mask, a window around the query, segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attviz.errors import ArgumentError, ReadingError
from attviz.readings.protocol import NO_KEY_IDS, Price, Reading, Tokens, whole_number

_GATHERED = 16  # up to so many keys are gathered one by one; more are one pass over the pairs


@dataclass(frozen=True, eq=False)
class Keys(Reading):
    """Mass of each query on a set of keys. Pass exactly one of the three.

    Attributes:
        mask: True at the keys of the set, ``[kv_len]`` or ``[batch, kv_len]``, or a function of the :class:`Tokens` that returns it.
        first: The first keys of each text that are not padding: ``Keys(first=1)`` is the attention sink (arXiv:2309.17453).
        special: The special tokens that the model's configuration names (``cls_token_id``, ``sep_token_id``, ``bos_token_id``, ...).
    """

    mask: Tensor | Callable[[Tokens], Tensor] | None = None
    first: int | None = None
    special: bool = False
    of_cross = True

    def __post_init__(self) -> None:
        if sum((self.mask is not None, self.first is not None, self.special)) != 1:
            raise ArgumentError("Keys: pass exactly one of mask=, first= and special=True.")
        if self.first is not None:
            whole_number("Keys", "first", self.first, 1)
        super().__post_init__()

    def label(self) -> str:
        """The default name, as the reading is written."""
        return f"keys(first={self.first})" if self.first is not None else "keys(special)" if self.special else "keys(mask)"

    def check(self, model: nn.Module, has_ids: bool) -> None:
        """Special tokens need ids, and a configuration that names them."""
        if self.special and not (has_ids and special_ids(model)):
            raise ArgumentError(
                "Keys(special=True): the model's configuration names no special tokens, or its forward takes no token ids. Pass "
                "Keys(lambda tokens: torch.isin(tokens.key_ids, ids)), or Keys(mask)."
            )

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        if self.first is not None:
            return _first(self.first, call, tokens)
        if self.special:
            if tokens.key_ids is None:
                raise ReadingError(NO_KEY_IDS)
            mask = torch.isin(tokens.key_ids, torch.tensor(tokens.special_ids, device=tokens.key_ids.device))
        else:
            assert self.mask is not None
            mask = self.mask if isinstance(self.mask, Tensor) else self.mask(tokens)
        return call.mass(_fitting(mask, call)[..., None])[..., 0]  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Window(Reading):
    """Mass within ``w`` tokens of the query's own key, itself included.

    Attributes:
        w: Tokens on either side.
    """

    w: int

    def __post_init__(self) -> None:
        whole_number("Window", "w", self.w, 0)
        super().__post_init__()

    def label(self) -> str:
        """The default name, as the reading is written."""
        return f"window({self.w})"

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        if 2 * self.w < _GATHERED:
            found = call.own(0)
            for step in range(1, self.w + 1):
                found = found + call.own(-step).nan_to_num_(0.0) + call.own(step).nan_to_num_(0.0)
            return found.clamp(max=1.0)  # type: ignore[no-any-return]
        return call.within(self.w)[..., 0].clone()  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Segments(Reading):
    """Mass on each of several segments of the keys: prompt and answer, image and text, languages.

    Attributes:
        ids: Segment of each key, ``[kv_len]`` or ``[batch, kv_len]``, from 0; -1 belongs to none. Or a function of the :class:`Tokens`.
        num_segments: How many there are.
    """

    ids: Tensor | Callable[[Tokens], Tensor]
    num_segments: int
    price: ClassVar[Price] = "pass"
    of_cross = True

    def __post_init__(self) -> None:
        whole_number("Segments", "num_segments", self.num_segments, 1)
        super().__post_init__()

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len, num_segments]``."""
        ids = _fitting(self.ids if isinstance(self.ids, Tensor) else self.ids(tokens), call)
        return call.mass(ids[..., None] == torch.arange(self.num_segments, device=ids.device))  # type: ignore[no-any-return]


def special_ids(model: nn.Module) -> tuple[int, ...]:
    """Ids of the special tokens that a model's configuration names, padding left out."""
    config = getattr(model, "config", None)
    found: set[int] = set()
    for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "decoder_start_token_id"):
        value = getattr(config, name, None)
        found |= {value} if isinstance(value, int) else set(value) if isinstance(value, (list, tuple)) else set()
    return tuple(sorted(found))


def _fitting(given: Tensor, call: Any) -> Tensor:
    batch, _, _, kv_len = call.shape
    if given.shape[-1:] != (kv_len,) or given.ndim > 2 or (given.ndim == 2 and given.shape[0] not in (1, batch)):
        raise ReadingError(f"its keys of shape {tuple(given.shape)} do not fit batch={batch} kv_len={kv_len}")
    return given.to(call.device)


def _first(count: int, call: Any, tokens: Tokens) -> Tensor:
    """Mass on the first real keys of each text."""
    batch, _, q_len, kv_len = call.shape
    start = torch.zeros(1, 1, 1, dtype=torch.long, device=call.device)
    last = start + kv_len
    if tokens.document_ids is not None and tokens.document_ids.shape[1] == q_len == kv_len:
        positions = torch.arange(q_len, device=call.device)
        borders = torch.nn.functional.pad(tokens.document_ids.diff(dim=1) != 0, (1, 0), value=True)
        start = torch.where(borders, positions, 0).cummax(1).values[:, None]
        last = torch.where(borders.roll(-1, 1), positions + 1, kv_len).flip(1).cummin(1).values.flip(1)[:, None]
    elif tokens.real_keys is not None and tokens.real_keys.shape == (batch, kv_len):
        start = tokens.real_keys.to(call.device).int().argmax(1)[:, None, None]
    if count <= _GATHERED:
        found = None
        for step in range(min(count, kv_len)):
            index = start + step
            weight = call.at(torch.where(index < last, index, -1).expand(-1, -1, q_len))
            found = weight if found is None else found + weight.nan_to_num_(0.0)
        assert found is not None
        return found.clamp(max=1.0)  # type: ignore[no-any-return]
    keys = torch.arange(kv_len, device=call.device)
    parts = []
    for span, block in call.blocks():
        first, end = (bound if bound.shape[2] == 1 else bound[:, :, span] for bound in (start, last))
        inside = (keys >= first[..., None]) & (keys < torch.minimum(first + count, end)[..., None])
        parts.append((block * inside).sum(-1))
    return torch.cat(parts, -1)
