"""The sentences about two models (or checkpoints, or settings) on the same texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attviz._insights._insight import SHUFFLES, Insight, points, share

if TYPE_CHECKING:
    from attviz._insights._corpus import Corpus
    from attviz._insights._measure import Measure

_LEAST_DOCUMENTS = 4


def change_sentences(before: Corpus, after: Corpus, names: tuple[str, str], measure: Measure | None = None) -> list[Insight]:
    """What changed from one side to the other: the level, and the head that changed most.

    The head's null flips the sign of each document's differences at random, for all heads together, and takes the largest mean
    difference of any head, so that it accounts for the number of heads compared.

    Args:
        before: Documents of the first side.
        after: The same documents, in the same order, of the second.
        names: Names of the two sides.
        measure: What was compared; None for the attention to the own position.
    """
    if before.names != after.names or not before.count.any() or not after.count.any():
        return []
    levels = [float(one.sum.sum() / one.count.sum()) for one in (before, after)]
    say = share if measure is None else measure.amount
    subject = "A token gives itself" if measure is None else f"{measure.name} is on average"
    ends = f"The heads of {names[1]} lie between {say(np.nanmin(after.row_mean))} and {say(np.nanmax(after.row_mean))}."
    found = [
        Insight(
            "level",
            f"{subject} {say(levels[0])} in {names[0]} and {say(levels[1])} in {names[1]}.",
            f"Even attention: {share(float(after.even_sum.sum() / after.count.sum()))}." if measure is None else ends,
            levels[1] - levels[0],
            0.0,
            {"tab": "compare"},
        )
    ]
    gaps = np.nan_to_num(after.documents - before.documents)
    mean = gaps.mean(0)
    best = int(np.argmax(np.abs(mean)))
    if len(gaps) < _LEAST_DOCUMENTS:
        null, reach = f"{len(gaps)} documents are too few to tell it from chance.", float("nan")
    else:
        rng = np.random.default_rng(0)
        signs = rng.choice([-1.0, 1.0], (SHUFFLES, len(gaps)))
        reach = float(np.quantile(np.abs(signs @ gaps / len(gaps)).max(1), 0.95))
        size = f"{points(reach)} points" if measure is None else measure.amount(reach)
        null = f"With randomly flipped signs, the largest of {len(mean)} changes stays below {size} (95%)."
    values = [float(np.nanmean(one.documents[:, best])) for one in (before, after)]
    text = f"{before.names[best]} changed most: from {say(values[0])} to {say(values[1])}."
    return [*found, Insight("change", text, null, float(mean[best]), reach, {"tab": "compare", "pin": [before.names[best]]})]
