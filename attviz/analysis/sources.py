"""The data set as the user passed it: texts (or images, or sounds) with their names and classes, checked one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from attviz.analysis.encoding import Source
from attviz.errors import ArgumentError


def sources_of(
    texts: Iterable[Any], labels: Iterable[int | str | None] | None, names: Iterable[str] | None, known: Sequence[str] | None
) -> Iterator[Source]:
    """Each text with its name and the index of its class.

    Raises:
        ArgumentError: If labels or names are not one per text, or a class is unknown.
    """
    if isinstance(texts, str):
        raise ArgumentError("texts must be several strings, got one: pass [text].")
    label, name = (None if given is None else iter(given) for given in (labels, names))
    nothing = object()
    for number, text in enumerate(texts):
        own = None if label is None else next(label, nothing)
        called = str(number) if name is None else next(name, nothing)
        if own is nothing or called is nothing:
            raise ArgumentError(f"{'labels' if own is nothing else 'names'} must be one per text, got {number} and more texts than that.")
        yield Source(text, str(called), _label_index(own, known, number))
    for given, what in ((label, "labels"), (name, "names")):
        if given is not None and next(given, nothing) is not nothing:
            raise ArgumentError(f"{what} must be one per text, got more {what} than texts.")


def _label_index(label: Any, known: Sequence[str] | None, number: int) -> int | None:
    if label is None:
        return None
    if isinstance(label, str):
        if known is None or label not in known:
            raise ArgumentError(
                f"text {number}: label {label!r} must be one of the classes ({', '.join(known or ['none are known'])}). Pass label_names=."
            )
        return list(known).index(label)
    if int(label) < 0 or (known is not None and int(label) >= len(known)):
        raise ArgumentError(f"text {number}: label {label} is outside the {len(known or [])} classes. Pass label_names= with all of them.")
    return int(label)
