"""``attviz.view``: makes a page from anything that holds diagonals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from attviz._insights import Measure, measure_of
from attviz.documents import as_analysis
from attviz.errors import ArgumentError
from attviz.records import AttvizDocument, Captured
from attviz.selecting import Documents, Heads, Layers, choose_documents, listed
from attviz.spelling import shorten, special_tokens
from attviz.viewer.attviz_json import attviz_entry, class_names
from attviz.viewer.codec import Precision, check_precision
from attviz.viewer.comparing import Changes, Others, Side, check_sides
from attviz.viewer.findings import Findings, row_names
from attviz.viewer.grid import choose_grid, grid_entry, grid_values
from attviz.viewer.images import image_uri
from attviz.viewer.measure import about, common_measure, measure_json, precision_for
from attviz.viewer.page import Page
from attviz.viewer.pairs import PairLayer
from attviz.viewer.pairs_capture import captured_pairs, has_pairs
from attviz.viewer.pairs_source import Pairs, attach_pairs, pairs_of
from attviz.viewer.payload import MAX_BYTES, MOST_CLASSES, Payload, finite

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from attviz.records import Document


def view(
    source: Any,
    *,
    title: str | None = None,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    tokens: Sequence[Sequence[str]] | None = None,
    tokenizer: Any | None = None,
    images: Sequence[Any] | None = None,
    causal: bool | None = None,
    pairs: bool | Sequence[Sequence[PairLayer]] | None = None,
    similarity: Float[np.ndarray, "num_rows num_rows"] | None = None,
    precision: str = "u16",
    show: str = "page",
    max_bytes: int = MAX_BYTES,
) -> Page:
    """Make the interactive page of an analysis, a capture, or AttViz documents.

    Args:
        source: An ``Analysis``; a ``Capture``; a ``Document`` or ``AttvizDocument``, or several of one kind (what
            ``attviz.io.read_attviz_json`` returns). Or several of these by name, of the same texts, to compare:
            ``{"base": a, "tuned": b}``, or the ``Comparison`` that :func:`attviz.compare` returns.
        title: Title of the page and its window.
        layers: Layers to keep: one or several indices, slices, names or glob patterns. None keeps all.
        heads: Heads to keep: one or several indices or slices.
        documents: Documents to keep: one or several indices or slices.
        tokens: For a capture: the token strings of each sequence.
        tokenizer: For a capture: converts its ``token_ids`` to strings.
        images: For vision models: one picture (path, bytes, PIL image, array) or None per document.
        causal: Whether token ``i`` saw ``i + 1`` keys (for the *lift* scale). None infers it from the first token.
        pairs: Whether the page also shows which token attends to which (head, model and neuron view, cross-attention). None shows it if
            the source has query and key, True requires it. Or the layers of each document, in the order of the documents.
        similarity: Similarity of any two of the shown heads, at most 1, layer by layer, for the order "clusters", such as
            ``attviz.metrics.fuji_matrix(scores)``. None takes their correlation over all tokens.
        precision: ``"u16"``, ``"u8"`` (half the size, 2.8 % relative error) or ``"f32"`` (exact). AttViz documents are always exact.
        show: ``"page"``, or ``"text"``: the tinted text alone, about a third of the size, for a notebook cell or a frame in a post.
        max_bytes: Refuse to make a larger page.

    Returns:
        The page: ``.save("page.html")``, or let a notebook display it.

    Raises:
        ArgumentError: If the source is of an unknown type or empty, an argument does not apply to it, or the page is too large.
        ShapeError: If tokens and diagonals, or the similarity and the heads, do not match.
        FormatError: If a value is outside [0, 1], or a vector of an AttViz document has a wrong length.

    Example:
        >>> import numpy as np
        >>> from attviz.records import Document
        >>> page = view(Document("a b", ("a", "b"), np.full((1, 2, 2), 0.5, np.float32)))
        >>> page.html.startswith("<!doctype html>")
        True
    """
    if show not in ("page", "text"):
        raise ArgumentError(f'view: show must be "page" or "text", got {show!r}.')
    if show == "text" and pairs:
        raise ArgumentError('view: show="text" cannot show pairs. Leave one of the two out.')
    if isinstance(source, (str, bytes)):
        raise ArgumentError(
            "view: source is a path. Use `attviz view FILE -o page.html`, or call attviz.io.load or read_attviz_json first."
        )
    options = _Options(
        title, listed(layers), listed(heads), listed(documents), images, causal, check_precision(precision), max_bytes, similarity
    )
    payload = _payload(source, options, tokens, tokenizer, False if show == "text" else pairs)
    if show == "text":
        payload.only_text()
    payload.warn_if_large()
    return Page(payload)


def _payload(
    source: Any,
    options: _Options,
    tokens: Sequence[Sequence[str]] | None,
    tokenizer: Any | None,
    pairs: bool | Sequence[Sequence[PairLayer]] | None,
) -> Payload:
    """The contents of the page, for any source."""
    if isinstance(source, AttvizDocument):
        source = (source,)
    if isinstance(source, Sequence) and len(source) and all(isinstance(one, AttvizDocument) for one in source):
        pairs_of(source[0], True if pairs else None, len(source))
        return _attviz_payload(source, options)
    changes, measure = None, measure_of(source)
    if hasattr(source, "analyses") and hasattr(source, "names"):  # a Comparison
        changes, source = Changes(source.low, source.high, source.level), dict(zip(source.names, source.analyses, strict=True))
    if isinstance(source, Mapping):
        check_sides(source)
        sides = [_side(one, tokens, tokenizer, str(name)) for name, one in source.items()]
        found_pairs = pairs_of(next(iter(source.values())), pairs, len(sides[0].documents))
        return _grid_payload(sides, options, found_pairs, changes, measure or common_measure(source))
    if isinstance(source, Captured) and pairs in (None, True) and has_pairs(source):
        found, pairs = captured_pairs(source, tokens, tokenizer)
        options = replace(options, title=options.title or _capture_title(source, found.documents))
        return _grid_payload([_side(found, None, None, "")], options, pairs_of(source, pairs, len(found.documents)))
    side = _side(source, tokens, tokenizer, "")
    if isinstance(source, Captured):
        options = replace(options, title=options.title or _capture_title(source, side.documents))
    return _grid_payload([side], options, pairs_of(source, pairs, len(side.documents)), measure=measure)


def _capture_title(cap: Captured, documents: Sequence[Document]) -> str | None:
    """The model, and the text where there is one: whoever has several pages open can tell them apart."""
    text = documents[0].text if len(documents) == 1 else ""
    if text:
        for place in special_tokens(documents[0].tokens, documents[0].special).nonzero()[0]:
            text = text.replace(documents[0].tokens[place], " ")
    return ": ".join(part for part in (cap.model_name, shorten(" ".join(text.split()), 60)) if part) or None


def _side(source: Any, tokens: Sequence[Sequence[str]] | None, tokenizer: Any | None, name: str) -> Side:
    """Documents of any source of diagonals, under their name in the page."""
    found = as_analysis(source, f"view: {name!r}" if name else "view", tokens=tokens, tokenizer=tokenizer)
    classes, model = getattr(found, "label_names", None), getattr(found, "model_name", "")
    return Side(found.documents, tuple(found.layers), classes, model, name)


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of :func:`view` that every kind of source shares."""

    title: str | None
    layers: Layers
    heads: Heads
    documents: Documents
    images: Sequence[Any] | None
    causal: bool | None
    precision: Precision
    max_bytes: int
    similarity: Float[np.ndarray, "num_rows num_rows"] | None

    def places(self, count: int) -> list[int]:
        """Indices of the documents to keep."""
        return choose_documents(count, self.documents)


def _grid_payload(
    sides: Sequence[Side],
    options: _Options,
    pairs: Pairs | None = None,
    changes: Changes | None = None,
    measure: Measure | None = None,
) -> Payload:
    documents, layers, classes, model = sides[0].documents, sides[0].layers, sides[0].classes, sides[0].model
    places = options.places(len(documents))
    if options.images is not None and len(options.images) != len(documents):
        raise ArgumentError(f"view: images has {len(options.images)} entries for {len(documents)} documents; use None where there is none.")
    first = documents[places[0]]
    grid = choose_grid(layers, first.diagonal.shape[1], options.layers, options.heads)
    others = Others(sides, options.layers, options.heads, measure)
    called = " | ".join(side.name for side in sides) or model or "attviz"
    payload = Payload(options.title or (called if measure is None else f"{measure.name}: {called}"), options.max_bytes)
    findings = Findings(row_names(grid.as_json()), measure)
    bounded = measure is None or measure.bounded
    precision = precision_for(measure, options.precision)
    causal = options.causal if measure is None else False  # lift is of the diagonal
    labels = -1
    for place, document in chain([(places[0], first)], ((i, documents[i]) for i in places[1:])):
        values = grid_values(document, f"documents[{place}]", grid, bounded=bounded)
        entry = grid_entry(document, place, values, precision, causal)
        entry.row.update({key: finite(mean) for key, mean in findings.add(document, values, entry.chunk["sets"][0]["causal"]).items()})
        others.add(entry, values, place, precision, causal)
        if options.images is not None and options.images[place] is not None:
            entry.chunk["image"] = image_uri(options.images[place], f"images[{place}]")
        known = [-1 if index is None else int(index) for index in (document.label, document.prediction)]
        if (strange := next((index for index in known if index >= MOST_CLASSES), None)) is not None:
            raise ArgumentError(f"view: documents[{place}] is of class {strange}; a page shows at most {MOST_CLASSES} classes.")
        labels = max(labels, *known, len(entry.row.get("probabilities", ())) - 1)
        if "patches" in entry.chunk:
            payload.need("images")
        payload.add(entry)
        if pairs is not None:
            attach_pairs(
                payload, document, f"documents[{place}]", pairs[place], options.layers, None if options.heads is None else grid.heads
            )
    names = [str(name) for name in classes or ()]
    names += [f"class {i}" for i in range(len(names), labels + 1)]
    found = findings.fields(others.insights(findings), options.similarity)
    payload.fields = {"model": model, "grid": grid.as_json(), "classes": names, "about": about(measure), **found}
    if measure is not None:
        payload.fields["measure"] = measure_json(measure)
    if others.sides:
        payload.fields["sides"] = others.sides_json(grid, found)
    if changes is not None:
        payload.keep("changes", 0, changes.as_json(grid))
    findings.keep_parts(payload, several=len(places) > 1 or bool(others.sides))
    return payload


def _attviz_payload(documents: Sequence[AttvizDocument], options: _Options) -> Payload:
    for name in ("layers", "heads", "images", "similarity"):
        if getattr(options, name) is not None:
            raise ArgumentError(f"view: {name}= does not apply to AttViz documents, whose vectors have names only.")
    kept = [documents[i] for i in options.places(len(documents))]
    classes = class_names(kept)
    payload = Payload(options.title or "AttViz documents", options.max_bytes)
    for index, document in enumerate(kept):
        payload.add(attviz_entry(document, index, classes))
    payload.fields = {"model": "", "classes": classes, "about": about(None)}
    if len(kept) > 1:
        payload.need("corpus")
    return payload
