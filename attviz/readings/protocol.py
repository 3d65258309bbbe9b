"""What a reading is, and what it can use: an attention call while its operator runs, and the tokens of the forward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from attviz.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Int

NO_KEY_IDS = (
    "it needs the ids of all keys, but this forward has none (pass token_ids= to attviz.capture), or has a cache that was filled outside "
    "the capture, reorders its rows, or keeps its length on the device"
)
Price = Literal["gathered", "rows", "pass", "copy"]


@dataclass(eq=False)
class Tokens:
    """What a forward knows of its tokens when a layer attends.

    Attributes:
        ids: Token ids of the queries, if the model has them.
        key_ids: The same for the keys, including those in a cache; None if a cache holds keys that were not seen.
        real: True where the query is not padding; None if the model was given no mask.
        real_keys: The same for the keys.
        document_ids: If texts are packed into one row, the number of each query's text.
        special_ids: Ids of the special tokens that the configuration of the model names.
        past: Keys before those of this call's own queries.
        length: Tokens of a row as the model was given it; the operator may be given fewer, without padding that all texts share.
    """

    ids: Int[Tensor, "batch q_len"] | None = None
    key_ids: Int[Tensor, "batch kv_len"] | None = None
    real: Bool[Tensor, "batch q_len"] | None = None
    real_keys: Bool[Tensor, "batch kv_len"] | None = None
    document_ids: Int[Tensor, "batch q_len"] | None = None
    special_ids: tuple[int, ...] = ()
    past: int | Tensor = 0
    length: int | None = None

    @cached_property
    def previous(self) -> Int[Tensor, "batch kv_len"] | None:
        """Key of the last earlier occurrence of each key's token (in its own text), -1 where it is the first."""
        if self.key_ids is None:
            return None
        ids = self.key_ids.long()
        if self.document_ids is not None and self.document_ids.shape == ids.shape:
            ids = ids + self.document_ids.long() * (ids.amax() + 1)
        if self.real_keys is not None:
            ids = torch.where(self.real_keys, ids, -1)
        order = ids.argsort(dim=1, stable=True)
        ordered = ids.gather(1, order)
        same = torch.nn.functional.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
        before = torch.where(same, order.roll(1, 1), -1)
        return torch.empty_like(order).scatter_(1, order, before)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """One number, row or tensor that is read from every attention call. To write your own, make a frozen dataclass with :meth:`read`.

    Attributes:
        name: Its name in ``record.readings`` and ``cap.reading``; a description by default.
        every: Read only every N-th captured forward.
        price: What it costs in addition to the forward: ``"gathered"`` (like the diagonal), ``"rows"``, a ``"pass"`` over all pairs, or a
            ``"copy"``.
        per: Axis that runs over tokens: ``"query"`` (the third; NaN at padding), or None if the reading handles padding itself.
        of_cross: Whether it can be read from cross-attention, where no key is a query's own.
        unit: Unit of its numbers: ``"probability"`` (within [0, 1]), ``"nats"``, ``"logit"``, ``"keys"`` or ``"tokens"``.

    Example:
        >>> @dataclass(frozen=True, kw_only=True, eq=False)
        ... class Next(Reading):
        ...     def read(self, call, tokens):
        ...         return call.own(1)
        >>> Next().name
        'next'
    """

    name: str = ""
    every: int = 1
    price: ClassVar[Price] = "gathered"
    per: ClassVar[Literal["query"] | None] = "query"
    of_cross: ClassVar[bool] = False
    unit: ClassVar[str] = "probability"

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise ArgumentError(f"{type(self).__name__}: every={self.every!r} must be a whole number of at least 1.")
        if not self.name:
            object.__setattr__(self, "name", self.label())

    def label(self) -> str:
        """The default name."""
        kind = type(self).__name__
        return "".join(f"_{char.lower()}" if char.isupper() and place else char.lower() for place, char in enumerate(kind))

    def check(self, model: torch.nn.Module, has_ids: bool) -> None:
        """Raise, before the forward, if the reading is known to be impossible.

        Args:
            model: The captured model.
            has_ids: Whether its forward, or ``token_ids=``, can provide token ids.
        """

    def read(self, call: Any, tokens: Tokens) -> Tensor | Mapping[str, Tensor]:
        """Read the call. Every result must be a new tensor, never a view of an activation.

        A mapping of several tensors becomes several readings, ``"<name>.<key>"``.

        Args:
            call: An :class:`attviz.calls.AttentionCall`.
            tokens: Tokens of the forward.

        Raises:
            ReadingError: If this call cannot provide it; the message becomes the layer's reason.
        """
        raise NotImplementedError


def whole_number(who: str, what: str, value: object, least: int) -> None:
    """Raise unless a parameter is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ArgumentError(f"{who}: {what} must be a whole number of at least {least}, got {value!r}.")
