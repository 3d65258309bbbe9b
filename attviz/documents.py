"""Converts anything that holds diagonals to an :class:`~attviz.records.Analysis`, which files, figures and the page take.

A Capture, a Document, several Documents, or an Analysis itself. There is one adapter, so a capture works wherever an analysis does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ArgumentError, ShapeError
from attviz.records import Analysis, Captured, CapturedDocument, Document

if TYPE_CHECKING:
    from torch import Tensor

Diagonals = Analysis | Captured | CapturedDocument | Document | Sequence[Document]


def as_analysis(source: Any, who: str, *, tokens: Sequence[Sequence[str]] | None = None, tokenizer: Any | None = None) -> Analysis:
    """Convert a source of diagonals to an Analysis; an Analysis, or an object with the same attributes, is returned unchanged.

    Args:
        source: An Analysis, a Capture, one text of ``cap.documents``, a Document, or several Documents.
        who: Name of the public function, for messages.
        tokens: For a capture: the strings of each text, for the whole row or for the real tokens only.
        tokenizer: For a capture: converts its ``token_ids`` to strings if ``tokens`` is not given.

    Raises:
        ArgumentError: If the source is of another type or holds no text, or if it has tokens of its own.
        ShapeError: If tokens and diagonals do not match.

    Example:
        >>> import numpy as np
        >>> as_analysis(Document("a b", ("a", "b"), np.full((1, 2, 2), 0.5)), "view")
        <Analysis 1 documents, 1 layers>
    """
    if isinstance(source, Captured):
        texts = source.documents
        return Analysis(tuple(source.layers), list(captured_documents(texts, who, tokens, tokenizer)), model_name=source.model_name)
    if isinstance(source, CapturedDocument):
        return Analysis(_counted(source.diagonal.shape[0]), list(captured_documents((source,), who, tokens, tokenizer)))
    if tokens is not None or tokenizer is not None:
        raise ArgumentError(f"{who}: tokens= and tokenizer= belong to a capture; {type(source).__name__} has its own tokens.")
    if isinstance(source, Document):
        return Analysis(_counted(source.diagonal.shape[0]), (source,))
    if hasattr(source, "documents") and hasattr(source, "layers"):
        found: Analysis = source
        return found
    if isinstance(source, Sequence) and len(source) and all(isinstance(one, Document) for one in source):
        return Analysis(_counted(source[0].diagonal.shape[0]), source)
    what = "an empty sequence" if isinstance(source, Sequence) and not len(source) else type(source).__name__
    raise ArgumentError(f"{who}: needs an Analysis, a Capture, or Documents, got {what}.")


def model_name(model: object) -> str:
    """Hub id or folder of a model, else the name of its class.

    Example:
        >>> model_name(dict())
        'dict'
    """
    return str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)


def captured_documents(
    texts: Sequence[CapturedDocument], who: str, tokens: Sequence[Sequence[str]] | None = None, tokenizer: Any | None = None
) -> Iterator[Document]:
    """One Document for each text of a capture, without its padding.

    Yields:
        Documents named by their index. Without tokens and tokenizer, a token is named by its id, or by its position.
    """
    if tokens is not None and len(tokens) != len(texts):
        raise ShapeError(f"{who}: tokens has {len(tokens)} sequences, but the capture holds {len(texts)} texts.")
    if tokenizer is not None and tokens is None and any(text.token_ids is None for text in texts):
        raise ArgumentError(f"{who}: the capture has no token_ids for the tokenizer to read; pass tokens=[[...], ...] instead.")
    for index, text in enumerate(texts):
        ids = None if text.token_ids is None else _array(text.token_ids)
        names = _names(None if tokens is None else tokens[index], ids, tokenizer, text, f"{who}: tokens[{index}]")
        special = None
        if tokenizer is not None and ids is not None:
            special = np.isin(ids, list(getattr(tokenizer, "all_special_ids", ())))
        written = tokenizer.decode(ids.tolist()) if tokenizer is not None and ids is not None else " ".join(names)
        yield Document(written, names, _array(text.diagonal), ids, None, special, name=f"sequence {index}")


def _names(
    tokens: Sequence[str] | None, ids: np.ndarray | None, tokenizer: Any | None, text: CapturedDocument, where: str
) -> tuple[str, ...]:
    places = _array(text.places).tolist()
    if tokens is not None:
        names = tuple(map(str, tokens))
        if len(names) == len(places):
            return names
        if len(names) <= max(places, default=-1) or len(names) < len(places):
            raise ShapeError(f"{where} has {len(names)} strings; the text has {len(places)} tokens, the last at {max(places, default=0)}.")
        return tuple(names[place] for place in places)
    if ids is None:
        return tuple(f"#{place}" for place in range(len(places)))
    return tuple(map(str, ids.tolist() if tokenizer is None else tokenizer.convert_ids_to_tokens(ids.tolist())))


def _array(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().cpu().numpy()
    return found


def _counted(num_layers: int) -> tuple[str, ...]:
    return tuple(f"layer {index}" for index in range(num_layers))
