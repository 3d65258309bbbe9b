"""Sentences about another reading than the attention to the own position: its level and the heads at both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attviz._insights._insight import Insight

if TYPE_CHECKING:
    from attviz._insights._corpus import Corpus
    from attviz._insights._measure import Measure


def reading_sentences(corpus: Corpus, measure: Measure) -> tuple[Insight, ...]:
    """What stands out in a reading; special tokens are left out.

    Example:
        >>> from attviz._insights import Corpus
        >>> reading_sentences(Corpus(()), None)
        ()
    """
    if not corpus.count.any():
        return ()
    means, say = corpus.row_mean, measure.amount
    mean, middle = float(corpus.sum.sum() / corpus.count.sum()), float(np.nanmedian(means))
    found = [
        Insight(
            "level",
            f"{measure.name} is {say(mean)} on average over all heads and tokens.",
            f"The median head: {say(middle)}.",
            mean,
            middle,
            {"statistic": "mean"},
        )
    ]
    if len(means) > 1:
        best, least = int(np.nanargmax(means)), int(np.nanargmin(means))
        names = corpus.names
        found.append(
            Insight(
                "ends",
                f"{names[best]} has the highest mean, {say(means[best])}, and {names[least]} the lowest, {say(means[least])}.",
                f"The median head: {say(middle)}.",
                float(means[best]),
                middle,
                {"pin": [names[best], names[least]], "arrange": "value"},
            )
        )
    return tuple(found)
