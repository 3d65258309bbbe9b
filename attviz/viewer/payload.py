"""What a page carries: a head that is read immediately, and one chunk per document that is read when the document is opened."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ArgumentError
from attviz.statistics import pool
from attviz.viewer.html import script_json

if TYPE_CHECKING:
    from jaxtyping import Float

WARN_BYTES = 25 * 2**20
MAX_BYTES = 64 * 2**20
MOST_CLASSES = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One document, ready to be written: its line in the list, and its chunk.

    Attributes:
        row: What the documents table shows and searches; plain JSON values.
        chunk: Tokens, sets and coded values; plain JSON values.
    """

    row: dict[str, Any]
    chunk: dict[str, Any]


@dataclass(slots=True)
class Payload:
    """The contents of a page, collected up to a maximum size."""

    title: str
    max_bytes: int = MAX_BYTES
    fields: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)
    extensions: list[str] = field(default_factory=list)
    size: int = 0
    attached: int = 0
    show: str = "page"

    def add(self, entry: Entry) -> None:
        """Keep one document.

        Raises:
            ArgumentError: If the page would exceed ``max_bytes``; the message lists ways to make it smaller.
        """
        chunk = script_json(entry.chunk)
        self.size += len(chunk) + len(script_json(entry.row))
        self.rows.append(entry.row)
        self.chunks.append(chunk)
        self._check_size()

    def attach(self, extension: str, index: int, value: Any, *, piece: int | None = None) -> None:
        """Keep what an extension (a second script, such as ``"pairs"``) reads for a document; the script comes with it.

        Args:
            extension: Its name: ``static/NAME.js`` is embedded, and the script finds the value by ``collection.part(NAME, index)``.
            index: Index of the document in the page.
            value: Plain JSON.
            piece: Set where the script reads the document piece by piece, by ``collection.part("NAME-INDEX", piece)``.

        Raises:
            ArgumentError: If the page would exceed ``max_bytes``; the message lists ways to make it smaller.
        """
        part = script_json(value)
        self.parts[f"{extension}-{index}" if piece is None else f"{extension}-{index}-{piece}"] = part
        self.attached += len(part)
        if extension not in self.extensions:
            self.extensions.append(extension)
        self.size += len(part)
        self._check_size()

    def keep(self, name: str, index: int, value: Any) -> None:
        """Keep what the page's own script reads only on demand, as ``collection.part(NAME, index)``.

        Raises:
            ArgumentError: If the page would exceed ``max_bytes``.
        """
        part = script_json(value)
        self.parts[f"{name}-{index}"] = part
        self.size += len(part)
        self._check_size()

    def need(self, extension: str) -> None:
        """Embed a second script that finds its data itself."""
        if extension not in self.extensions:
            self.extensions.append(extension)

    def only_text(self) -> None:
        """Drop what the text-only page does not show: sentences, clusters, head cards, the table of tokens, and their scripts.

        Raises:
            ArgumentError: If the documents are images.
        """
        if "images" in self.extensions:
            raise ArgumentError('view: show="text" shows texts, and these documents are images; leave show out.')
        self.show = "text"
        self.parts.clear()
        self.extensions.clear()
        for side in [self.fields, *self.fields.get("sides", ())]:
            for name in ("cluster", "insights", "overall", "overallIn"):
                side.pop(name, None)
        self.size = sum(len(chunk) for chunk in self.chunks) + sum(len(script_json(row)) for row in self.rows)

    def _check_size(self) -> None:
        if self.size <= self.max_bytes:
            return
        count = len(self.chunks)
        ways = [f"documents=slice(0, {count // 2})"] if count > 1 else []
        ways += ["layers=[...]", "heads=[...]"]
        if self.attached > self.size // 2:
            megabytes = self.attached / 2**20
            cures = f"shorter texts, or pairs=False (query and key take {megabytes:.1f} MB of it)"
        else:
            cures = 'or precision="u8" (half the size)'
        raise ArgumentError(
            f"view: after {count} document{'s' * (count != 1)} the page holds {self.size / 2**20:.1f} MB, more than "
            f"max_bytes={self.max_bytes} ({self.max_bytes / 2**20:.1f} MB). "
            f"Make it smaller: {', '.join(ways)}, {cures}; or raise max_bytes."
        )

    def head(self) -> str:
        """JSON of the head."""
        return script_json({"format": 1, "title": self.title, **self.fields, "extensions": self.extensions, "documents": self.rows})

    def warn_if_large(self) -> None:
        """Warn once if browsers will be slow to open the page."""
        if self.size > WARN_BYTES:
            warnings.warn(
                f"view: the page holds {self.size / 2**20:.0f} MB; opening it takes seconds. "
                'Smaller: documents=, layers=, heads=, or precision="u8".',
                stacklevel=3,
            )


def finite(value: float | None) -> float | None:
    """A number JSON can carry: None for NaN and infinities.

    Example:
        >>> finite(float("nan")) is None, finite(0.5)
        (True, 0.5)
    """
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def finite_list(values: Float[np.ndarray, " n"] | Sequence[float]) -> list[float | None]:
    """:func:`finite` of each value.

    Example:
        >>> finite_list([0.5, float("inf")])
        [0.5, None]
    """
    return [finite(float(value)) for value in values]


class HeadMoments:
    """Mean, std, max and min of every (layer, head) over all tokens of all documents, missing values left out."""

    def __init__(self, num_rows: int) -> None:
        self.count = np.zeros(num_rows)
        self.mean = np.zeros(num_rows)
        self.m2 = np.zeros(num_rows)
        self.max = np.full(num_rows, -np.inf)
        self.min = np.full(num_rows, np.inf)

    def update(self, values: Float[np.ndarray, "num_rows num_tokens"]) -> None:
        """Pool one document into the moments, in float64."""
        values = values.astype(np.float64)
        real = ~np.isnan(values)
        count = real.sum(1)
        filled = np.where(real, values, 0.0)
        mean = filled.sum(1) / np.maximum(count, 1)
        m2 = np.where(real, (values - mean[:, None]) ** 2, 0.0).sum(1)
        self.count, self.mean, self.m2 = pool(self.count, self.mean, self.m2, count, mean, m2)
        self.max = np.maximum(self.max, np.where(real, values, -np.inf).max(1, initial=-np.inf))
        self.min = np.minimum(self.min, np.where(real, values, np.inf).min(1, initial=np.inf))

    def as_json(self) -> dict[str, list[float | None]]:
        """One list per statistic, None where a head has no value (std needs two)."""
        std = np.sqrt(self.m2 / np.where(self.count > 1, self.count - 1, np.nan))
        mean = np.where(self.count > 0, self.mean, np.nan)
        columns = {"mean": mean, "std": std, "max": self.max, "min": self.min, "range": self.max - self.min}
        return {name: finite_list(column) for name, column in columns.items()}
