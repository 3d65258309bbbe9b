"""Sequences whose items are read when they are asked for: documents of archives, of shards, and of a part of an analysis."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item", covariant=True)


class OnDemand(Sequence[Item]):
    """A sequence that holds none of its items; a subclass provides the length and :meth:`_read`."""

    @abstractmethod
    def _read(self, number: int) -> Item:
        """The item at an index from 0 to the length."""

    @abstractmethod
    def _where(self) -> str:
        """What they are, for messages."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self._read(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self._where()}: document {index} of {len(self)}")
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[Item]:
        return (self._read(number) for number in range(len(self)))
