"""Conversion between an analysis and the documents of the AttViz JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from attviz.errors import FormatError
from attviz.records import Analysis, AttvizDocument, AttvizSet, AttvizVector, Document
from attviz.selecting import Documents, Heads, Layers, choose_part


def attviz_documents(
    analysis: Analysis, *, layers: Layers = None, heads: Heads = None, documents: Documents = None
) -> Iterator[AttvizDocument]:
    """Documents for the AttViz tool, one vector per head, generated lazily. The original page is slow beyond a few dozen vectors.

    Args:
        analysis: The documents.
        layers: Layers to keep: one or several indices, slices, names or glob patterns; None keeps all.
        heads: Heads to keep: one or several indices or slices.
        documents: Documents to keep: one or several indices or slices.

    Raises:
        UnknownLayerError: If a layer matches nothing.
        ArgumentError: If a head or a document does not exist.
    """
    part = choose_part(analysis, layers, heads, documents, who="io.attviz_documents")
    names = [f"layer {layer} head {head}" for layer in part.layers for head in part.heads]
    for document in part.analysis.documents:
        rows = document.diagonal.astype(np.float32).reshape(len(names), -1)
        vectors = tuple(AttvizVector(tuple(row.tolist()), name) for row, name in zip(rows, names, strict=True))
        yield AttvizDocument(
            text=document.text,
            sets=(AttvizSet(document.tokens, vectors),),
            name=document.name or None,
            activations=_activations(document, analysis.label_names),
        )


def analysis_of(documents: Iterable[AttvizDocument], *, model_name: str = "AttViz JSON") -> Analysis:
    """Convert AttViz documents to an analysis: each set becomes a document, its vectors the heads of a single layer.

    Classes come from the names of the activations; activations that are probabilities (from 0 to 1, adding up to 1) become
    probabilities and a prediction.

    Raises:
        FormatError: If the sets differ in their number of vectors, or the documents in their classes.
    """
    found: list[Document] = []
    classes: tuple[str, ...] | None = None
    num_vectors: int | None = None
    for place, document in enumerate(documents):
        names = tuple(str(place if name is None else name) for place, (name, _) in enumerate(document.activations)) or None
        if classes is not None and names is not None and names != classes:
            raise FormatError(
                f"[{place}].output_activations: must name the same classes as before ({', '.join(classes)}), got {', '.join(names)}."
            )
        classes = classes or names
        for number, one in enumerate(document.sets):
            if num_vectors is not None and len(one.vectors) != num_vectors:
                raise FormatError(
                    f"[{place}].sets[{number}]: must have {num_vectors} vectors like the sets before, has {len(one.vectors)}."
                )
            num_vectors = len(one.vectors)
            name = document.name or str(place)
            found.append(_document_of(document, one, name if len(document.sets) == 1 else f"{name}[{number}]"))
    return Analysis(layers=("vectors",), documents=found, label_names=classes, model_name=model_name)


def _activations(document: Document, label_names: Sequence[str] | None) -> tuple[tuple[str | None, str | float], ...]:
    if document.probabilities is None:
        return ()
    names = label_names if label_names is not None else [None] * len(document.probabilities)
    return tuple((name, str(np.float32(value))) for name, value in zip(names, document.probabilities, strict=True))


def _document_of(document: AttvizDocument, one: AttvizSet, name: str) -> Document:
    values = np.array([vector.values for vector in one.vectors], dtype=np.float32).reshape(1, len(one.vectors), len(one.tokens))
    scores = np.array([float(value) for _, value in document.activations], dtype=np.float32)
    normal = scores.size > 1 and bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-3
    return Document(
        text=document.text,
        tokens=one.tokens,
        diagonal=values,
        name=name,
        prediction=int(scores.argmax()) if scores.size else None,
        probabilities=scores if normal else None,
    )
