"""What the page says of its numbers: the attention to the own position, or another reading of each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attviz._insights import Measure, measure_of
from attviz.errors import ArgumentError

if TYPE_CHECKING:
    from attviz.viewer.codec import Precision

_LEAD = "A value is how much attention a token gives itself: 0 is none, 1 is all of it."

ABOUT = {
    "lead": _LEAD,
    "heat": "One cell per head: how much attention its tokens give themselves. Bright heads look at each token's own position. Dark heads "
    "look elsewhere, which may be anywhere.",
    "text": "Each token is tinted by the attention it gives itself, on average over the heads or in one head: the stronger the tint, the "
    "more. The strokes below it are the pinned heads, one colour each.",
    "series": "Above: the chosen aggregate over all heads, token by token, between the smallest and the largest head. Below: every head as "
    "a row. High values: the token keeps its attention to itself. Low values: it reads from other tokens.",
    "top": "The tokens that give themselves the most attention. Lift multiplies by the number of tokens seen: 1 is what even attention "
    "gives.",
    "token": "The token under the pointer, or the one you clicked, with its aggregates over all heads. A lift above 1 is more than even "
    "attention.",
}


def about(measure: Measure | None) -> dict[str, str]:
    """What high and low mean, card by card, and in one line what a value is.

    Example:
        >>> about(Measure("row_entropy", "nats"))["lead"]
        'A value is the row_entropy of a token in one layer and head, in nats.'
    """
    if measure is None:
        return ABOUT
    name = measure.name
    unit = f", in {measure.unit}" if measure.unit else ""
    return {
        "lead": f"A value is the {name} of a token in one layer and head{unit}.",
        "heat": f"One cell per head: {name} over its tokens{unit}. Bright is high, dark is low.",
        "text": f"Each token is tinted by its {name}, on average over the heads or in one head: the stronger the tint, the higher "
        "the value. The strokes below it are the pinned heads, one colour each.",
        "series": f"Above: the chosen aggregate of {name} over all heads, token by token, between the smallest and the largest head. "
        "Below: every head as a row.",
        "top": f"The tokens with the highest {name}.",
        "token": "The token under the pointer, or the one you clicked, with its aggregates over all heads.",
    }


def measure_json(measure: Measure) -> dict[str, Any]:
    """For the head of the page. Only probabilities have a logarithmic scale; no reading has a lift.

    Example:
        >>> measure_json(Measure("row_entropy", "nats"))
        {'name': 'row_entropy', 'axis': 'row_entropy (nats)', 'scales': ['raw']}
    """
    return {"name": measure.name, "axis": measure.axis, "scales": ["log", "raw", "robust"] if measure.bounded else ["raw"]}


def common_measure(sources: Mapping[str, Any]) -> Measure | None:
    """What all sides of a page hold.

    Raises:
        ArgumentError: If they hold different things.
    """
    held = {name: measure_of(source) for name, source in sources.items()}
    (first, measure), *others = held.items()
    for name, other in others:
        if other != measure:
            one, two = (found.name if found else "the diagonal" for found in (measure, other))
            raise ArgumentError(
                f"view: {first!r} holds {one} and {name!r} holds {two}; a page compares the same numbers of both. "
                "Make both with the same attviz.analyze(..., reading=)."
            )
    return measure


def precision_for(measure: Measure | None, precision: Precision) -> Precision:
    """The codes of one and two bytes hold values in [0, 1] only."""
    return precision if measure is None or measure.bounded else "f32"
