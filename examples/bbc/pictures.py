"""The two pictures of this folder's README, from a finished run: ``python examples/bbc/pictures.py bbc-out docs/images``.

Only the head of one document is shown: the texts are not ours to spread.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from attviz import io, plots
from attviz.vocabulary import vocabulary

QUOTED_TOKENS = 40
DOCUMENT = 117  # politics


def main(run: Path, folder: Path) -> int:
    analysis = io.load(run / "test.attviz")
    document = analysis.documents[DOCUMENT]
    rows = document.diagonal.astype(np.float64)
    rows[:, :, document.special] = np.nan
    rows = rows[:, :, :QUOTED_TOKENS].mean(axis=1)
    names = [f"mean L{layer}" for layer in range(len(rows))]
    tokens = document.tokens[:QUOTED_TOKENS]
    ax = plots.sequence(rows, tokens=tokens, names=names, tint=rows.mean(axis=0), columns=84)
    ax.figure.savefig(folder / "bbc-sequence.png", dpi=150)
    words = vocabulary(analysis)
    mean, std, maximum = words.pooled()
    ax = plots.token_bars(mean, tokens=words.tokens, std=std, maximum=maximum, count=words.count, min_count=5, k=20)
    ax.figure.savefig(folder / "bbc-token-bars.png", dpi=130)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
