"""Documents of the AttViz JSON (several token sets, vectors with names and colours) into page entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import FormatError
from attviz.spelling import special_tokens
from attviz.viewer.codec import encode
from attviz.viewer.payload import Entry, finite, finite_list

if TYPE_CHECKING:
    from attviz.records import AttvizDocument, AttvizSet


def class_names(documents: Sequence[AttvizDocument]) -> list[str]:
    """Names of all classes in the order of their first appearance; a nameless one is called ``"class 2"`` by its position.

    Example:
        >>> from attviz.records import AttvizDocument
        >>> class_names([AttvizDocument("a", activations=(("sport", 1.0), (None, 0.0)))])
        ['sport', 'class 1']
    """
    names = [_class_name(name, place) for document in documents for place, (name, _) in enumerate(document.activations)]
    return list(dict.fromkeys(names))


def _class_name(name: str | None, place: int) -> str:
    return f"class {place}" if name is None else str(name)


def attviz_entry(document: AttvizDocument, index: int, classes: Sequence[str]) -> Entry:
    """Turn one AttViz document into its line in the list and its chunk, values exact in float32.

    Raises:
        FormatError: If a vector is not as long as the tokens of its set, or a class score is not a number.
    """
    flat = [_set_values(one, f"[{index}].sets[{place}]") for place, one in enumerate(document.sets)]
    values = np.concatenate(flat) if flat else np.zeros(0, np.float32)
    real = values[~np.isnan(values)]
    row: dict[str, Any] = {
        "name": document.name or "",
        "text": document.text,
        "tokens": len(document.sets[0].tokens) if document.sets else 0,
        "mean": finite(float(real.mean(dtype=np.float64))) if real.size else None,
    }
    if document.activations:
        row |= _scores(document, index, classes)
    chunk: dict[str, Any] = {"sets": [_set_json(one) for one in document.sets], "precision": "f32", "data": encode(values, "f32")}
    if document.highlight is not None:
        chunk["highlight"] = list(document.highlight)
    return Entry(row, chunk)


def _set_values(one: AttvizSet, path: str) -> np.ndarray:
    for place, vector in enumerate(one.vectors):
        if len(vector.values) != len(one.tokens):
            raise FormatError(
                f"{path}.attention_vectors[{place}].vectors: {len(vector.values)} values for {len(one.tokens)} tokens; "
                "a vector has one value per token."
            )
    return np.array([vector.values for vector in one.vectors], np.float32).reshape(-1)


def _set_json(one: AttvizSet) -> dict[str, Any]:
    rows = []
    for vector in one.vectors:
        row: dict[str, Any] = {} if vector.name is None else {"name": vector.name}
        if vector.color is not None:
            row["color"] = vector.color
        if not vector.visible:
            row["visible"] = False
        rows.append(row)
    special = np.flatnonzero(special_tokens(one.tokens)).tolist()
    result: dict[str, Any] = {"tokens": list(one.tokens), "rows": rows, "special": special}
    if one.name is not None:
        result["name"] = one.name
    if not one.visible:
        result["visible"] = False
    return result


def _scores(document: AttvizDocument, index: int, classes: Sequence[str]) -> dict[str, Any]:
    scores = np.full(len(classes), np.nan)
    for place, (name, value) in enumerate(document.activations):
        try:
            scores[classes.index(_class_name(name, place))] = float(value)
        except ValueError:
            raise FormatError(f"[{index}].output_activations[{place}].value: not a number: {value!r}.") from None
    result: dict[str, Any] = {"probabilities": finite_list(scores)}
    if not np.isnan(scores).all():
        result["prediction"] = int(np.nanargmax(scores))
    return result
