"""The sentences about two models (or checkpoints, or settings) on the same texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attviz._insights._insight import SHUFFLES, Insight, points, share

if TYPE_CHECKING:
    from attviz._insights._corpus import Corpus

_LEAST_DOCUMENTS = 4


def change_sentences(before: Corpus, after: Corpus, names: tuple[str, str]) -> list[Insight]:
    """What changed from one side to the other: the level, and the head that changed most.

    The head's null flips the sign of each document's differences at random, for all heads together, and takes the largest mean
    difference of any head, so that it accounts for the number of heads compared.

    Args:
        before: Documents of the first side.
        after: The same documents, in the same order, of the second.
        names: Names of the two sides.
    """
    if before.names != after.names or not before.count.any() or not after.count.any():
        return []
    levels = [float(one.sum.sum() / one.count.sum()) for one in (before, after)]
    found = [
        Insight(
            "level",
            f"A token gives itself {share(levels[0])} in {names[0]} and {share(levels[1])} in {names[1]}.",
            f"Even attention: {share(float(after.even_sum.sum() / after.count.sum()))}.",
            levels[1] - levels[0],
            0.0,
            {"tab": "compare"},
        )
    ]
    gaps = np.nan_to_num(after.documents - before.documents)
    mean = gaps.mean(0)
    best = int(np.argmax(np.abs(mean)))
    if len(gaps) < _LEAST_DOCUMENTS:
        null, reach = f"{len(gaps)} documents are too few for a chance level.", float("nan")
    else:
        rng = np.random.default_rng(0)
        signs = rng.choice([-1.0, 1.0], (SHUFFLES, len(gaps)))
        reach = float(np.quantile(np.abs(signs @ gaps / len(gaps)).max(1), 0.95))
        null = f"With signs turned at random the largest of {len(mean)} changes reaches {points(reach)} points (95 %)."
    values = [float(np.nanmean(one.documents[:, best])) for one in (before, after)]
    text = f"{before.names[best]} changed most: from {share(values[0])} to {share(values[1])}."
    return [*found, Insight("change", text, null, float(mean[best]), reach, {"tab": "compare", "pin": [before.names[best]]})]
