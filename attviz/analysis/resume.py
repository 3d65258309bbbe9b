"""Resuming a stopped run: its batches are compared one by one with those of the new run, and every document must be the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from attviz.errors import ArgumentError
from attviz.io.partial import PartialArchive
from attviz.io.stopped import Entry

_KINDS = {"num_tokens": "its tokens", "text": "its text", "name": "its name", "label": "its label"}


class StoppedRun:
    """The documents that a stopped run finished; none for a new run."""

    def __init__(self, partial: PartialArchive) -> None:
        self._folder = partial.folder
        self._left = partial.num_documents
        self._entries = chain.from_iterable(partial.batches())

    def has_done(self, inputs: Sequence[Entry], names: Sequence[str]) -> bool:
        """Whether the next inputs are on disk already; they are compared with what is there.

        Args:
            inputs: What would be written; sizes that are not known yet are -1.
            names: Names of the documents, for the message.

        Raises:
            ArgumentError: If a document has changed; the message says which, and how.
        """
        if not self._left:
            return False
        if self._left < len(inputs):
            raise self._refusal(f"this run batches {len(inputs)} texts where the stopped run had {self._left}")
        self._left -= len(inputs)
        for new, name in zip(inputs, names, strict=True):
            self._compare(next(self._entries), new, name)
        return True

    def finish(self) -> None:
        """Finish the comparison.

        Raises:
            ArgumentError: If the stopped run had more documents.
        """
        if self._left:
            raise self._refusal(f"the stopped run had {self._left} more documents than the data set")

    def _compare(self, old: Entry, new: Entry, name: str) -> None:
        if new.number != old.number:
            raise self._refusal(f"document {name!r} is where the stopped run had another one")
        changed = [what for kind, what in _KINDS.items() if getattr(new, kind) not in (getattr(old, kind), -1)]
        if changed:
            raise self._refusal(f"document {name!r} has changed: {', '.join(changed)}")

    def _refusal(self, difference: str) -> ArgumentError:
        return ArgumentError(
            f"{self._folder} holds a stopped run over other texts: {difference}. "
            "Run with the old data to resume, or remove the folder to start over."
        )
