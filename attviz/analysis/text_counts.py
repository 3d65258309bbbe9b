"""Counts over the texts of a data set: empty, repeated and truncated ones, counted as they pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from attviz.analysis.encoding import Source

_MOST_REMEMBERED = 5_000_000  # hashes of texts: some 400 MB


@dataclass(slots=True)
class TextCounts:
    """Counts over one pass; the same whether the pass was stopped or not.

    Attributes:
        texts: All texts.
        empty: Texts that are blank.
        repeated: Texts that occurred before.
        truncated: Texts longer than the model accepts, which were cut.
        lost_tokens: Tokens that were cut off.
        most_remembered: How many texts are remembered to find repeats; a repeat of a later text is not counted.
    """

    texts: int = 0
    empty: int = 0
    repeated: int = 0
    truncated: int = 0
    lost_tokens: int = 0
    most_remembered: int = _MOST_REMEMBERED
    _seen: set[int] = field(default_factory=set)

    def counted(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Pass the sources on and count them."""
        for source in sources:
            if isinstance(source.text, str):
                self.texts += 1
                self.empty += not source.text.strip()
                key = hash(source.text)
                self.repeated += key in self._seen
                if len(self._seen) < self.most_remembered:
                    self._seen.add(key)
            yield source

    def cut(self, lost_tokens: int) -> None:
        """Count a text that was cut."""
        self.truncated += 1
        self.lost_tokens += lost_tokens

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {name: getattr(self, name) for name in ("texts", "empty", "repeated", "truncated", "lost_tokens")}

    def sentences(self, max_length: int | None = None) -> list[str]:
        """What a user should know, one sentence each; empty if all is well."""
        at = "" if max_length is None else f" at {max_length} tokens"
        least = "at least " if len(self._seen) >= self.most_remembered else ""
        told = [
            (
                self.truncated,
                f"{self.truncated} of {self.texts} texts were cut{at} ({self.lost_tokens} tokens lost): --long split keeps all",
            ),
            (self.empty, f"{self.empty} of {self.texts} texts are empty"),
            (
                self.repeated,
                f"{least}{self.repeated} of {self.texts} texts repeat one before",
            ),
        ]
        return [sentence for count, sentence in told if count]
