"""Documents that are read on demand: the common part of archives and shards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import overload

from attviz.records import Document


class LazyDocuments(Sequence[Document]):
    """A sequence of documents; a subclass provides the length and :meth:`_read`."""

    @abstractmethod
    def _read(self, number: int) -> Document:
        """The document at an index."""

    @abstractmethod
    def _where(self) -> str:
        """What they are, for messages."""

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self._read(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self._where()}: document {index} of {len(self)}")
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[Document]:
        return (self._read(number) for number in range(len(self)))
