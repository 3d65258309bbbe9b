"""Several analyses of the same texts in one page: each document carries the vectors of every side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz._insights import Insight, Measure, change_sentences
from attviz.errors import ArgumentError, ShapeError
from attviz.viewer.codec import Precision, encode
from attviz.viewer.findings import Findings, row_names
from attviz.viewer.grid import Grid, choose_grid, grid_entry, grid_values
from attviz.viewer.payload import finite_list

if TYPE_CHECKING:
    from jaxtyping import Float

    from attviz.records import Document
    from attviz.selecting import Heads, Layers
    from attviz.viewer.payload import Entry


@dataclass(frozen=True, slots=True)
class Side:
    """One source of a page: documents and the layers of their diagonals.

    Attributes:
        documents: In order.
        layers: Names of the first axis of every diagonal.
        classes: Names of the classes, if there are any.
        model: Name of the model.
        name: Name in the page; empty if the page has only one side.
    """

    documents: Sequence[Document]
    layers: tuple[str, ...]
    classes: Sequence[str] | None = None
    model: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Intervals of the change of each head, over all texts of a comparison.

    Attributes:
        low: Lower ends.
        high: Upper ends.
        level: Confidence level, such as 0.95.
    """

    low: Float[np.ndarray, "num_layers num_heads"]
    high: Float[np.ndarray, "num_layers num_heads"]
    level: float

    def as_json(self, grid: Grid) -> dict[str, Any]:
        """The intervals of the heads that the page shows, in its order."""
        part = np.ix_(grid.layers, grid.heads)
        return {"low": finite_list(self.low[part].ravel()), "high": finite_list(self.high[part].ravel()), "level": self.level}


def check_sides(sides: Mapping[Any, Any]) -> None:
    """Refuse what cannot be compared before anything is read.

    Raises:
        ArgumentError: If there are not at least two sides with names.
    """
    if len(sides) < 2:
        raise ArgumentError(f'view: a comparison needs at least two sides, such as view({{"base": a, "tuned": b}}), got {len(sides)}.')
    nameless = [name for name in sides if not str(name).strip()]
    if nameless:
        raise ArgumentError(f"view: every side of a comparison needs a name, got {nameless[0]!r}.")


class Others:
    """The sides after the first: their grids, what was found in them, and their part of each document."""

    def __init__(self, sides: Sequence[Side], layers: Layers, heads: Heads, measure: Measure | None = None) -> None:
        first, sides = sides[0], sides[1:]
        count = len(first.documents)
        for side in sides:
            if len(side.documents) != count:
                raise ShapeError(
                    f"view: {side.name!r} has {len(side.documents)} documents, the first side {count}; sides are compared document by "
                    "document. Analyse the same texts, or pass the same part of both: analysis.documents[:n]."
                )
        self.first, self.sides = first.name, sides
        self.grids: list[Grid] = [choose_grid(side.layers, side.documents[0].diagonal.shape[1], layers, heads) for side in sides]
        self.measure = measure
        self.findings = [Findings(row_names(grid.as_json()), measure) for grid in self.grids]

    def add(
        self, entry: Entry, values: Float[np.ndarray, "num_rows num_tokens"], place: int, precision: Precision, causal: bool | None
    ) -> None:
        """Append the vectors of every other side to those of the first."""
        parts = [values.reshape(-1)]
        for number, (side, grid, findings) in enumerate(zip(self.sides, self.grids, self.findings, strict=True), start=1):
            document = side.documents[place]
            bounded = self.measure is None or self.measure.bounded
            own = grid_values(document, f"{side.name}: documents[{place}]", grid, bounded=bounded)
            one = grid_entry(document, place, own, precision, causal)
            findings.add(document, own, one.chunk["sets"][0]["causal"])
            made = one.chunk["sets"][0] | {"grid": number, "name": side.name}
            if document.text != entry.row["text"]:
                made.pop("offsets", None)  # they count in a text that the page does not have
            entry.chunk["sets"].append(made)
            parts.append(own.reshape(-1))
        if self.sides:
            entry.chunk["sets"][0]["name"] = self.first
            entry.chunk["data"] = encode(np.concatenate(parts), precision)

    def sides_json(self, grid: Grid, findings: dict[str, Any]) -> list[dict[str, Any]]:
        """Grid, moments, ranges and clusters of every side, the first included."""
        kept = ("overall", "overallIn", "ranges", "cluster")
        result = [{"name": self.first, "grid": grid.as_json()} | {key: findings[key] for key in kept}]
        for side, one, found in zip(self.sides, self.grids, self.findings, strict=True):
            fields = found.fields()
            result.append({"name": side.name, "grid": one.as_json()} | {key: fields[key] for key in kept})
        return result

    def insights(self, findings: Findings) -> list[Insight]:
        """Sentences about what changed from the first side to the second."""
        if not self.sides:
            return []
        return change_sentences(findings.corpus, self.findings[0].corpus, (self.first, self.sides[0].name), self.measure)
