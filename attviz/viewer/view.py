"""``attviz.view``: whatever holds diagonals becomes a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from attviz.documents import as_analysis
from attviz.errors import ArgumentError
from attviz.records import AttvizDocument, Captured, Document
from attviz.viewer.attviz_json import attviz_entry, class_names
from attviz.viewer.codec import Precision, check_precision
from attviz.viewer.grid import choose_grid, grid_entry, grid_values
from attviz.viewer.images import image_uri
from attviz.viewer.page import Page
from attviz.viewer.pairs import PairLayer
from attviz.viewer.pairs_capture import captured_pairs, has_pairs
from attviz.viewer.pairs_source import Pairs, attach_pairs, pairs_of
from attviz.viewer.payload import MAX_BYTES, MOST_CLASSES, HeadMoments, Payload


def view(
    source: Any,
    *,
    title: str | None = None,
    layers: Iterable[int | str] | None = None,
    heads: Iterable[int] | None = None,
    documents: slice | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
    tokenizer: Any | None = None,
    images: Sequence[Any] | None = None,
    causal: bool | None = None,
    pairs: bool | Sequence[Sequence[PairLayer]] | None = None,
    precision: str = "u16",
    max_bytes: int = MAX_BYTES,
) -> Page:
    """Make the interactive page of an analysis, a capture, or AttViz documents.

    Args:
        source: An ``Analysis``; a ``Capture``; a ``Document`` or ``AttvizDocument``, or several of one kind (what
            ``attviz.io.read_attviz_json`` returns).
        title: Shown in the page and as the title of its window.
        layers: Layers to keep: indices, names or glob patterns. None keeps all.
        heads: Heads to keep, by index.
        documents: Which documents to keep, as a slice.
        tokens: For a capture: the token strings of each sequence.
        tokenizer: For a capture: turns its ``token_ids`` into strings.
        images: For vision models: one picture (path, bytes, PIL image, array) or None a document.
        causal: Whether token ``i`` saw ``i + 1`` keys (for the *lift* scale). None reads it off the first token.
        pairs: Whether the page also shows who looks at whom (head, model and neuron view, cross-attention). None shows it where the
            source has query and key, True insists. Or the layers of each document, in the order of the documents.
        precision: ``"u16"``, ``"u8"`` (half the size, 2.8 % relative error) or ``"f32"`` (exact). AttViz documents are exact always.
        max_bytes: Refuse to make a larger page.

    Returns:
        The page: ``.save("page.html")``, or let a notebook show it.

    Raises:
        ArgumentError: If the source is of no known kind or empty, an argument does not fit it, or the page is too large.
        ShapeError: If tokens and diagonals do not fit.
        FormatError: If a value is outside [0, 1], or a vector of an AttViz document has a wrong length.

    Example:
        >>> import numpy as np
        >>> page = view(Document("a b", ("a", "b"), np.full((1, 2, 2), 0.5, np.float32)))
        >>> page.html.startswith("<!doctype html>")
        True
    """
    kept = check_precision(precision)
    if isinstance(source, AttvizDocument):
        source = (source,)
    if isinstance(source, (str, bytes)):
        raise ArgumentError(
            "view: a path is not read here; `attviz view FILE -o page.html` does, or attviz.io.read_attviz_json / load first."
        )
    options = _Options(title, layers, heads, documents, images, causal, kept, max_bytes)
    if isinstance(source, Sequence) and len(source) and all(isinstance(one, AttvizDocument) for one in source):
        pairs_of(source[0], True if pairs else None, len(source))
        return _attviz_page(source, options)
    if isinstance(source, Captured) and pairs in (None, True) and has_pairs(source):
        found, pairs = captured_pairs(source, tokens, tokenizer)
    else:
        found = as_analysis(source, "view", tokens=tokens, tokenizer=tokenizer)
    classes, model = getattr(found, "label_names", None), getattr(found, "model_name", "")
    pairs = pairs_of(source, pairs, len(found.documents))
    return _grid_page(found.documents, tuple(found.layers), classes, model, options, pairs)


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of :func:`view` that every kind of source shares."""

    title: str | None
    layers: Iterable[int | str] | None
    heads: Iterable[int] | None
    documents: slice | None
    images: Sequence[Any] | None
    causal: bool | None
    precision: Precision
    max_bytes: int

    def places(self, count: int) -> range:
        """Indices of the documents to keep."""
        places = range(count)[self.documents] if self.documents is not None else range(count)
        if not places:
            raise ArgumentError(f"view: nothing to show: documents={self.documents} keeps none of the {count} documents.")
        return places


def _grid_page(
    documents: Sequence[Document],
    layers: tuple[str, ...],
    classes: Sequence[str] | None,
    model: str,
    options: _Options,
    pairs: Pairs | None = None,
) -> Page:
    places = options.places(len(documents))
    if options.images is not None and len(options.images) != len(documents):
        raise ArgumentError(f"view: images has {len(options.images)} entries for {len(documents)} documents; use None where there is none.")
    first = documents[places[0]]
    grid = choose_grid(layers, first.diagonal.shape[1], options.layers, options.heads)
    payload = Payload(options.title or model or "attviz", options.max_bytes)
    moments = HeadMoments(len(grid.layers) * len(grid.heads))
    labels = -1
    for place, document in chain([(places[0], first)], ((i, documents[i]) for i in places[1:])):
        values = grid_values(document, f"documents[{place}]", grid)
        moments.update(values)
        entry = grid_entry(document, place, values, options.precision, options.causal)
        if options.images is not None and options.images[place] is not None:
            entry.chunk["image"] = image_uri(options.images[place], f"images[{place}]")
        known = [-1 if index is None else int(index) for index in (document.label, document.prediction)]
        if (strange := next((index for index in known if index >= MOST_CLASSES), None)) is not None:
            raise ArgumentError(f"view: documents[{place}] is of class {strange}; a page shows at most {MOST_CLASSES} classes.")
        labels = max(labels, *known, len(entry.row.get("probabilities", ())) - 1)
        payload.add(entry)
        if pairs is not None:
            attach_pairs(payload, document, f"documents[{place}]", pairs[place], options.layers, grid.heads if options.heads else None)
    names = [str(name) for name in classes or ()]
    names += [f"class {i}" for i in range(len(names), labels + 1)]
    payload.fields = {"model": model, "grid": grid.as_json(), "overall": moments.as_json(), "classes": names}
    payload.warn_if_large()
    return Page(payload)


def _attviz_page(documents: Sequence[AttvizDocument], options: _Options) -> Page:
    for name in ("layers", "heads", "images"):
        if getattr(options, name) is not None:
            raise ArgumentError(f"view: {name}= has no meaning for AttViz documents, whose vectors carry names only.")
    kept = [documents[i] for i in options.places(len(documents))]
    classes = class_names(kept)
    payload = Payload(options.title or "AttViz documents", options.max_bytes)
    for index, document in enumerate(kept):
        payload.add(attviz_entry(document, index, classes))
    payload.fields = {"model": "", "classes": classes}
    payload.warn_if_large()
    return Page(payload)
