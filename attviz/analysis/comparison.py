"""The result of ``attviz.compare``: what changed between models, head by head, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attviz.readings import Reading
from attviz.records import Analysis
from attviz.selecting import Documents, choose_documents

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from attviz.viewer import Page


class HeadChange(NamedTuple):
    """How one head differs between the first and the last model.

    Attributes:
        layer: Name of its layer in the first model.
        layer_index: Index of its layer.
        head: Index of the head.
        before: Mean diagonal in the first model.
        after: Mean diagonal in the last model.
        difference: ``after - before``.
        low: Lower end of the bootstrap interval of the difference.
        high: Upper end of that interval.
        change: Mean of ``abs(after - before)`` over tokens: a head may change while its mean does not.
        certain: Whether the interval excludes 0.
    """

    layer: str
    layer_index: int
    head: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    change: float
    certain: bool

    def __str__(self) -> str:
        doubt = "" if self.certain else ", uncertain"
        return f"{self.layer} head {self.head}: {self.before:.4f} -> {self.after:.4f} ({self.low:+.4f} to {self.high:+.4f}{doubt})"


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two models, or a series of checkpoints, on the same texts: their diagonals, compared token by token.

    Means run over the tokens that are not special. Intervals come from a bootstrap over texts, because tokens of one text are not
    independent. With a single text there is no interval (NaN), and nothing is certain.

    Attributes:
        names: One per model.
        steps: Position of each model on the axis of a series.
        layers: Layer names of the first model.
        mean: Mean diagonal of each model and head.
        mean_low: Lower end of its interval.
        mean_high: Upper end of its interval.
        difference: Last model minus first.
        low: Lower end of the interval of the difference.
        high: Upper end of that interval.
        change: Mean over tokens of the absolute difference between first and last model.
        analyses: The texts as each model saw them; the same tokens in the same order.
        num_tokens: Number of tokens that were counted.
        level: Confidence level of the intervals, such as 0.95.
        reading: What was compared; None for the diagonal.
    """

    names: tuple[str, ...]
    steps: tuple[float, ...]
    layers: tuple[str, ...]
    mean: Float[np.ndarray, "num_models num_layers num_heads"]
    mean_low: Float[np.ndarray, "num_models num_layers num_heads"]
    mean_high: Float[np.ndarray, "num_models num_layers num_heads"]
    difference: Float[np.ndarray, "num_layers num_heads"]
    low: Float[np.ndarray, "num_layers num_heads"]
    high: Float[np.ndarray, "num_layers num_heads"]
    change: Float[np.ndarray, "num_layers num_heads"]
    analyses: tuple[Analysis, ...]
    num_tokens: int
    level: float
    reading: Reading | None = None

    def __repr__(self) -> str:
        sure = int(self.certain.sum())
        what = "" if self.reading is None else f" of {self.reading.name}"
        return (
            f"<Comparison{what} {' -> '.join(self.names)}: {len(self.analyses[0].documents)} texts, {self.num_tokens} tokens, "
            f"{sure} of {self.certain.size} heads changed for certain>"
        )

    @property
    def certain(self) -> Bool[np.ndarray, "num_layers num_heads"]:
        """Whether the interval of the difference excludes 0."""
        found: np.ndarray = (self.low > 0) | (self.high < 0)
        return found

    def ranked(self, k: int | None = None) -> list[HeadChange]:
        """Heads by change, the largest absolute difference of the means first.

        Args:
            k: How many; None returns all.
        """
        order = np.argsort(-np.abs(self.difference), axis=None, kind="stable")[:k]
        return [self._change(*divmod(int(place), self.difference.shape[1])) for place in order]

    def _change(self, layer: int, head: int) -> HeadChange:
        columns = (self.mean[0], self.mean[-1], self.difference, self.low, self.high, self.change)
        before, after, difference, low, high, change = (float(column[layer, head]) for column in columns)
        certain = bool(self.certain[layer, head])
        return HeadChange(self.layers[layer], layer, head, before, after, difference, low, high, change, certain)

    @property
    def table(self) -> pd.DataFrame:
        """One row per head, ranked by change; the columns of :class:`HeadChange`."""
        import pandas as pd

        return pd.DataFrame(self.ranked(), columns=list(HeadChange._fields))

    @property
    def figure(self) -> Figure:
        """Two models: a map of the differences and the heads that changed most. A series: the mean of each layer at every step."""
        from attviz.plots import head_changes, head_curves
        from attviz.plots._canvas import PROBABILITY_ON_BAR

        what = "attention to own position" if self.reading is None else f"{self.reading.name} ({self.reading.unit})"
        if len(self.names) > 2:
            label = f"mean {PROBABILITY_ON_BAR if self.reading is None else what}"
            axis = head_curves(self.mean, steps=self.steps, low=self.mean_low, high=self.mean_high, layers=self.layers, label=label)
            return axis.figure  # type: ignore[return-value]
        return head_changes(self.difference, low=self.low, high=self.high, names=self.names, label=what)[0].figure  # type: ignore[no-any-return]

    def token_difference(self, document: int) -> Float[np.ndarray, "num_layers num_heads num_tokens"]:
        """Last model minus first, for every token of one text; ``analyses[0].documents[document].tokens`` names them."""
        first, last = (analysis.documents[document].diagonal.astype(np.float64) for analysis in (self.analyses[0], self.analyses[-1]))
        difference: np.ndarray = last - first
        return difference

    def view(self, documents: Documents = None) -> Page:
        """The page with every text in each model: two maps and their difference, both texts over one axis, heads by change.

        Args:
            documents: Which texts; None shows the twenty whose diagonals changed most.

        Raises:
            ArgumentError: If a document does not exist.
        """
        from attviz.viewer import view

        count = len(self.analyses[0].documents)
        chosen = self._most_changed(20) if documents is None else choose_documents(count, documents, "Comparison.view")
        analyses = tuple(
            Analysis(one.layers, [one.documents[place] for place in chosen], one.label_names, one.model_name) for one in self.analyses
        )
        what = "" if self.reading is None else f"{self.reading.name}: "
        return view(replace(self, analyses=analyses), title=what + " -> ".join(self.names))

    def _most_changed(self, count: int) -> list[int]:
        changes = [np.append(np.abs(self.token_difference(place)), 0.0) for place in range(len(self.analyses[0].documents))]
        sizes = [float(np.nanmean(change)) for change in changes]
        return sorted(np.argsort([-size for size in sizes], kind="stable")[:count].tolist())
