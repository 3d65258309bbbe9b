"""A computed sentence, and how numbers are written in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attviz.spelling import shorten

SHUFFLES = 200
_MOST_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Insight:
    """One computed sentence.

    Attributes:
        name: Name of the question it answers, such as ``"never"``.
        text: The finding with its number.
        null: What uniform attention, chance or the rest of the data would show.
        value: The number of the finding.
        expected: The number of the null.
        state: What the page shows when the sentence is clicked, as written in its address.
        document: Index of the document it is about; None for the whole analysis.
    """

    name: str
    text: str
    null: str
    value: float
    expected: float
    state: Mapping[str, Any] = field(default_factory=dict)
    document: int | None = None


def share(value: float) -> str:
    """A weight in percent, short enough for a sentence.

    Example:
        >>> share(0.0734), share(0.5), share(0.00042), share(0)
        ('7.3%', '50%', '0.042%', '0%')
    """
    return f"{float(f'{100 * value:.2g}'):.12g}%"


def points(value: float) -> str:
    """A difference of weights in percentage points, short enough for a sentence.

    Example:
        >>> points(0.054)
        '5.4'
    """
    return share(value).removesuffix("%")


def quoted(label: str) -> str:
    r"""A token, quoted for a sentence.

    Example:
        >>> quoted("bank")
        '“bank”'
    """
    return f"\N{LEFT DOUBLE QUOTATION MARK}{shorten(label, _MOST_COLUMNS)}\N{RIGHT DOUBLE QUOTATION MARK}"
