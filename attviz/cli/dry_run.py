"""``attviz analyze --dry-run``: what would be read, how large the archive would be, how long it would take; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

_SAMPLE = 256  # texts that are cut into tokens to know the others
_BATCHES = 3  # that really run
_BYTES_A_TOKEN = 33  # ids, offsets, marks and the token's text, in addition to the diagonal


def estimate(
    model: Any, tokenizer: Any, texts: Sequence[str], oddities: Mapping[str, int], options: Mapping[str, Any]
) -> dict[str, object]:
    """Look at a sample of the texts, spread over all, and run a few batches of it.

    Args:
        model: The model, on the device where it would run.
        tokenizer: Its tokenizer.
        texts: All texts.
        oddities: Irregularities that the reader found.
        options: Options that ``attviz.analyze`` would be called with.

    Returns:
        Numbers by name; names of extrapolated numbers begin with ``about_``.
    """
    from attviz.analysis import analyze
    from attviz.io.storage import storage_of

    sample = [texts[place * len(texts) // _SAMPLE] for place in range(_SAMPLE)] if len(texts) > _SAMPLE else list(texts)
    kept = {name: value for name, value in options.items() if name not in {"archive", "overwrite", "labels", "metrics"}}
    kept |= {"progress": False, "archive": None}
    some = sample[:: max(1, len(sample) // (_BATCHES * options["batch_size"]))][: _BATCHES * options["batch_size"]]
    analyze(model, tokenizer, some[:1], **kept)  # the first forward pays for everything that is done once
    started = time.perf_counter()
    analysis = analyze(model, tokenizer, some, **kept)
    seconds = time.perf_counter() - started
    tokens = sum(len(document.tokens) for document in analysis.documents)
    layers, heads = (analysis.documents[0].diagonal.shape[:2]) if analysis.documents else (0, 0)
    share = len(texts) / max(1, len(some))
    item = storage_of(options["precision"]).dtype.itemsize
    return {
        "texts": len(texts),
        "empty": sum(not text.strip() for text in texts),
        "repeated": len(texts) - len(set(texts)),
        "odd_rows": dict(oddities),
        "layers": layers,
        "heads": heads,
        "about_tokens": round(tokens * share),
        "about_bytes": round(tokens * share * (layers * heads * item + _BYTES_A_TOKEN)),
        "about_seconds": round(seconds * share, 3),
    }
