"""Which layers, heads and documents the user asked for: the same words for captures, the page, figures, files and the command line."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

import numpy as np

from attviz.errors import ArgumentError, UnknownLayerError
from attviz.on_demand import OnDemand
from attviz.records import Analysis, Document

T = TypeVar("T")
Layers = Iterable[int | str | slice] | int | str | slice | None
"""Indices (negative ones count from the end), slices, names (of a layer or of a module around it) or glob patterns; None means all."""
Heads = Iterable[int | slice] | int | slice | None
"""Indices or slices; one or several; None means all."""
Documents = Iterable[int | slice] | int | slice | None
"""Indices or slices; one or several; None means all."""


def listed(wanted: Iterable[T] | T | None) -> list[T] | None:
    """One or several as a list, which can be read more than once; None stays None.

    Example:
        >>> listed("encoder.0"), listed(iter([1, 2])), listed(None)
        (['encoder.0'], [1, 2], None)
    """
    if wanted is None:
        return None
    return [wanted] if isinstance(wanted, (str, slice)) or not isinstance(wanted, Iterable) else list(wanted)


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern is the name of a layer, of a module around it, or a glob pattern of either.

    Example:
        >>> [matches("encoder.1.attention", pattern) for pattern in ("encoder.1", "*.attention", "encoder", "enc")]
        [True, True, True, False]
    """
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def choose_layers(names: Sequence[str], wanted: Layers, who: str = "view") -> list[int]:
    """Indices of the layers that were asked for, each once.

    Args:
        names: The layers there are.
        wanted: Indices, slices, names or glob patterns.
        who: Name of the public function, for messages.

    Raises:
        UnknownLayerError: If one of them matches nothing.
        ArgumentError: If one of them is of another type.

    Example:
        >>> choose_layers(["encoder.0", "encoder.1"], ["*.1", -2])
        [1, 0]
        >>> choose_layers(["encoder.0", "encoder.1"], "encoder"), choose_layers(["encoder.0", "encoder.1"], slice(1, None))
        ([0, 1], [1])
    """
    if wanted is None:
        return list(range(len(names)))
    several: list[int | str | slice] = listed(wanted) or []
    return list(dict.fromkeys(place for one in several for place in _layers(names, one, who)))


def _layers(names: Sequence[str], wanted: int | str | slice, who: str) -> list[int]:
    if isinstance(wanted, str):
        found = [place for place, name in enumerate(names) if matches(name, wanted)]
    else:
        found = _places(len(names), wanted, f"{who}: layers")
    if not found:
        raise UnknownLayerError(f"{who}: layers={wanted!r} matches none of the {len(names)} layers: {', '.join(names[:12])}.")
    return found


def _places(count: int, wanted: int | slice, where: str) -> list[int]:
    """The places that an index or a slice means; none if the index does not exist."""
    if isinstance(wanted, slice):
        return list(range(count)[wanted])
    try:
        index = operator.index(wanted)
    except TypeError:
        raise ArgumentError(f"{where} must be given as indices or slices, got {wanted!r}.") from None
    return [range(count)[index]] if -count <= index < count else []


def choose_heads(num_heads: int, wanted: Heads, who: str = "view") -> list[int]:
    """Indices of the heads that were asked for, each once.

    Raises:
        ArgumentError: If a head does not exist.

    Example:
        >>> choose_heads(12, [3, -1, 3]), choose_heads(4, slice(2)), choose_heads(2, None)
        ([3, 11], [0, 1], [0, 1])
    """
    if wanted is None:
        return list(range(num_heads))
    several: list[int | slice] = listed(wanted) or []
    chosen: dict[int, None] = {}
    for one in several:
        found = _places(num_heads, one, f"{who}: heads")
        if not found:
            raise ArgumentError(f"{who}: heads contains {one}, but the model has heads 0 to {num_heads - 1}.")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def choose_documents(count: int, wanted: Documents, who: str = "view") -> list[int]:
    """Indices of the documents that were asked for, each once.

    Raises:
        ArgumentError: If a document does not exist, or none is left.

    Example:
        >>> choose_documents(10, [8, slice(0, 2)]), choose_documents(3, -1), choose_documents(2, None)
        ([8, 0, 1], [2], [0, 1])
    """
    several: list[int | slice] = [slice(None)] if wanted is None else listed(wanted) or []
    chosen: dict[int, None] = {}
    for one in several:
        found = _places(count, one, f"{who}: documents")
        if not found and not isinstance(one, slice):
            raise ArgumentError(f"{who}: document {one} does not exist: there are documents 0 to {count - 1}.")
        chosen |= dict.fromkeys(found)
    if not chosen:
        raise ArgumentError(f"{who}: nothing to show: documents={wanted} keeps none of the {count} documents.")
    return list(chosen)


class Part(NamedTuple):
    """A part of an analysis, with the indices that its layers, heads and documents have in the whole."""

    analysis: Analysis
    layers: list[int]
    heads: list[int]
    documents: list[int]


def choose_part(analysis: Analysis, layers: Layers = None, heads: Heads = None, documents: Documents = None, *, who: str) -> Part:
    """The layers, heads and documents that were asked for; documents are still read on demand.

    Raises:
        UnknownLayerError: If a layer matches nothing.
        ArgumentError: If a head or a document does not exist, or nothing is left.

    Example:
        >>> whole = Analysis(("a", "b"), [Document("x", ("x",), np.array([[[0.1], [0.2]], [[0.3], [0.4]]]))])
        >>> part = choose_part(whole, layers="b", heads=0, who="view")
        >>> part.analysis.documents[0].diagonal.tolist(), part.layers, part.heads, part.documents
        ([[[0.3]]], [1], [0], [0])
    """
    shape = next((document.diagonal.shape for document in analysis.documents), (len(analysis.layers), 0))
    names = analysis.layers or tuple(f"layer {index}" for index in range(shape[0]))
    every = list(range(len(analysis.documents)))
    chosen = Part(analysis, choose_layers(names, layers, who), choose_heads(shape[1], heads, who), every)
    if layers is None and heads is None and documents is None:
        return chosen
    if not (chosen.layers and chosen.heads):
        raise ArgumentError(f"{who}: nothing is left of {shape[0]} layers and {shape[1]} heads: layers={layers!r}, heads={heads!r}.")
    places = choose_documents(len(analysis.documents), documents, who)
    kept = _Documents(analysis.documents, places, None if layers is None and heads is None else np.ix_(chosen.layers, chosen.heads))
    about = {name: getattr(analysis, name) for name in ("label_names", "model_name", "settings") if hasattr(analysis, name)}
    return chosen._replace(analysis=Analysis(tuple(names[place] for place in chosen.layers), kept, **about), documents=places)


class _Documents(OnDemand[Document]):
    """Some documents of a sequence, with some of their vectors."""

    def __init__(self, documents: Sequence[Document], places: list[int], vectors: tuple[np.ndarray, ...] | None) -> None:
        self._documents, self._places, self._vectors = documents, places, vectors

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, number: int) -> Document:
        document = self._documents[self._places[number]]
        return document if self._vectors is None else replace(document, diagonal=document.diagonal[self._vectors])

    def _where(self) -> str:
        return "part of an analysis"
