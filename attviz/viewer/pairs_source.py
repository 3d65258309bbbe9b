"""Where the pairs of a page come from: what the caller gave, or what the capture read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attviz.errors import ArgumentError
from attviz.records import Captured, Document
from attviz.selecting import Layers, choose_layers
from attviz.viewer.pairs import PairLayer, pair_parts
from attviz.viewer.payload import Payload

Pairs = Sequence[Sequence[PairLayer]]


def pairs_of(source: Any, asked: bool | Pairs | None, count: int) -> Pairs | None:
    """The layers of each document, or None where the page shows none.

    Args:
        source: What :func:`attviz.view` was given.
        asked: The ``pairs=`` argument.
        count: Number of documents of the source.

    Raises:
        ArgumentError: If pairs are requested from a source without query and key, or do not fit the documents.
    """
    if asked is False or asked is None:
        return None
    if asked is True:
        raise ArgumentError(_lacking(source))
    if len(asked) != count:
        raise ArgumentError(f"view: pairs has {len(asked)} entries for {count} documents; use [] where a document has none.")
    return asked


def _lacking(source: Any) -> str:
    reasons = [why for record in getattr(source, "records", ()) for why in record.reasons.values()] if isinstance(source, Captured) else []
    why = f" (a layer said: {reasons[0]})" if reasons else ""
    return (
        f"view: pairs=True needs query and key, and this {type(source).__name__} holds diagonals only{why}. Capture them with\n"
        "  with attviz.capture(model, read=[attviz.readings.QueryKey()]) as cap:\n"
        "      model(**inputs)\n"
        "  attviz.view(cap, tokenizer=tokenizer)\n"
        "or use attviz.pairs(model, tokenizer, texts), on the command line: attviz pairs MODEL TEXT -o page.html"
    )


def attach_pairs(
    payload: Payload,
    document: Document,
    where: str,
    layers: Sequence[PairLayer],
    wanted: Layers,
    heads: Sequence[int] | None,
) -> None:
    """Write the pairs of the document that was added last."""
    if not layers:
        return
    if wanted is not None:
        chosen = set(choose_layers([layer.name for layer in layers], wanted))
        layers = [layer for place, layer in enumerate(layers) if place in chosen]
    special = () if document.special is None else np.flatnonzero(document.special).tolist()
    index = len(payload.rows) - 1
    meta, data = pair_parts(layers, document.tokens, special, heads, where)
    payload.attach("pairs", index, meta)
    for place, one in enumerate(data):
        payload.attach("pairs", index, one, piece=place)
