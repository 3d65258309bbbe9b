"""What is known about each tensor while a forward is followed, keyed by the memory it views, so that nothing is kept alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from attviz.hooks.scope.follow.axes import CONSTANT, Axes, Axis, Symbol, Symbols, roots_of


@dataclass(slots=True, eq=False)
class SeenSoftmax:
    """A softmax that was taken for attention, and how the forward used it.

    Attributes:
        used: What was multiplied with values: ``""`` for the softmax itself, else the operation that had changed it.
    """

    used: list[str] = field(default_factory=list)

    @property
    def changed(self) -> str | None:
        """The operation that changed the weights before they were used; None if they were used as they are."""
        return self.used[0] if self.used and "" not in self.used else None


class Weights(NamedTuple):
    """A tensor that is a softmax: which one, over which axis, and what has changed it since."""

    softmax: SeenSoftmax
    axis: int | None
    changed: str = ""


class Pair(NamedTuple):
    """What is known about the two factors of a product that produced scores.

    Attributes:
        query: Streams of one factor.
        key: Streams of the other.
        crossed: Whether they belong to different texts of the batch.
        buffered: Whether one of them is in a buffer.
        summed: Sources of the axis that was summed over; other axes from the same sources are heads.
        learned_from: The parameters from which a query is made that depends on no input.
        rows: The axis that one factor gave the product.
        keys: The axis that the other factor gave it.
        kept: Whether a factor that depends on no input was there before the forward (a cache, a memory), and so is no parameter.
    """

    query: frozenset[int]
    key: frozenset[int]
    crossed: bool = False
    buffered: bool = False
    summed: frozenset[Symbol] = frozenset()
    learned_from: frozenset[int] = frozenset()
    rows: Axis = ()
    keys: Axis = ()
    kept: bool = False

    def unmasked(self, keys: Axis, axes: Axes) -> Axis:
        """The axis of the keys of scores with these axes, as the product of tokens with themselves had it before a mask named it."""
        own = self.rows
        if not own or own != self.keys or axes.count(own) != 1:
            return keys
        return own if roots_of(keys) and not roots_of(keys) & roots_of(own) else keys


def is_product(pair: Pair | None) -> bool:
    """Whether both factors depend on inputs: else one was a parameter, and what it made are no scores of tokens by tokens."""
    return pair is not None and bool(pair.query) and bool(pair.key)


class Trace(NamedTuple):
    """What is known about a tensor.

    Attributes:
        axes: Where each axis comes from.
        streams: The inputs, and the attentions on the way, that its values depend on.
        pair: The two factors of the product it comes from: query and key, if it holds scores.
        weights: Which softmax it is.
        exponential: Whether it comes from an exponential: weighing tokens with it may be an attention that no operator shows.
        noise: Whether it was drawn at random (dropout).
        taken: Which index of which axis of an input it comes from, if single ones were taken.
        buffered: Whether it is a view of a buffer into which parts were written, possibly other parts in the next call.
        learned_from: The parameters, by number, from which it is made, if it depends on no input.
    """

    axes: Axes
    streams: frozenset[int] = frozenset()
    pair: Pair | None = None
    weights: Weights | None = None
    exponential: bool = False
    noise: bool = False
    taken: frozenset[tuple[Axis, int]] = frozenset()
    buffered: bool = False
    learned_from: frozenset[int] = frozenset()


def one_for_all(one: Trace, two: Trace, leading: int) -> bool:
    """Whether one side of a product is a single text of the batch, matched with all texts of the other."""
    for side, other in ((one, two), (two, one)):
        texts = {symbol for axis in other.axes[:leading] for symbol in axis}
        if any(texts.intersection(axis) for axis, _ in side.taken - other.taken):
            return True
    return False


_Key = tuple[Any, ...]
_HUGE = 1 << 22  # elements: not copied and compared
_YOUNG = 64


class Traces:
    """Traces by storage, offset, shape and strides; they disappear with their storage."""

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self._known: dict[_Key, tuple[StorageWeakRef, Trace]] = {}
        self._indices: list[tuple[Tensor, int]] = []
        self._young: list[_Key] = []  # written last; what lives longer is a parameter, an input or a state

    def known(self, tensor: Tensor) -> Trace | None:
        """What is known about a tensor; None if it is new."""
        found = self._known.get(_key(tensor))
        if found is None or found[0].expired() or len(found[1].axes) != tensor.ndim:
            return None
        return found[1]

    def __getitem__(self, tensor: Tensor) -> Trace:
        found = self.known(tensor)
        return self.name(tensor, "learned" if isinstance(tensor, nn.Parameter) else "kept") if found is None else found

    def name(self, tensor: Tensor, kind: str, noise: bool = False) -> Trace:
        """Name the axes of a tensor that comes from no input."""
        number, make = self.symbols.fresh(), self.symbols.make
        axes = tuple(() if size == 1 else (make(kind, size, CONSTANT, number, index),) for index, size in enumerate(tensor.shape))
        self[tensor] = Trace(axes, noise=noise, learned_from=frozenset([number]))
        return self[tensor]

    def __setitem__(self, tensor: Tensor, trace: Trace) -> None:
        key = _key(tensor)
        self._known[key] = (StorageWeakRef(tensor.untyped_storage()), trace)
        self._young = [key, *(each for each in self._young[:_YOUNG] if each != key and not self._gone(each))]

    def _gone(self, key: _Key) -> bool:
        """Forget a dead storage: its header lies next to its memory and would keep malloc from handing that out again."""
        gone = key in self._known and self._known[key][0].expired()
        if gone:
            del self._known[key]
        return gone

    def values(self, index: Tensor) -> int:
        """A number for the values of an index or mask, the same for equal values; for huge tensors, the same for the same memory."""
        index = index.detach()
        huge = index.numel() > _HUGE
        for other, number in self._indices:
            if other.shape == index.shape and other.dtype == index.dtype:
                if (other.data_ptr() == index.data_ptr()) if huge else torch.equal(other, index):
                    return number
        self._indices.append((index if huge else index.clone(), self.symbols.fresh()))
        return self._indices[-1][1]

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._young.clear()
        self._indices.clear()


def traceable(value: object) -> bool:
    """Whether a value is a plain tensor with memory of its own."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and not value.is_nested
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
        and value.device.type != "meta"
    )


def _key(tensor: Tensor) -> _Key:
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


Rule = Callable[[Traces, tuple[Any, ...], dict[str, Any], Any], "Axes | list[Axes] | None"]
"""Axes of what an operator returned, from ``(traces, args, kwargs, result)``; None where they cannot be told."""


def flat(value: Any) -> Iterator[Any]:
    """Everything in nested tuples, lists and dictionaries."""
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from flat(each)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from flat(each)
    else:
        yield value


def flat_tensors(value: Any) -> list[Tensor]:
    """The tensors among them."""
    return [each for each in flat(value) if isinstance(each, Tensor)]
