"""The registry of figures: what each draws of an analysis, and the name of its file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attviz.errors import ArgumentError
from attviz.files import replacing
from attviz.plots._source import FigureSource, vectors
from attviz.records import Analysis, Document
from attviz.selecting import Documents, Heads, Layers, choose_documents, choose_part
from attviz.spelling import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SEQUENCE_VECTORS = 24
_SHOWN = 3  # documents that get figures of their own, where nobody says which


def write_figures(
    analysis: Analysis,
    folder: str | os.PathLike[str],
    *,
    figures: Sequence[str] | None = None,
    layers: Layers = None,
    heads: Heads = None,
    documents: Documents = None,
    min_count: int | None = None,
    cloud_weight: str = "count_top",
    special: bool = False,
    caption: bool = False,
    formats: Sequence[str] = ("png",),
    dpi: int = 160,
) -> Iterator[Path]:
    """Draw figures of an analysis into a folder, one after the other.

    Args:
        analysis: From :func:`attviz.analyze` or :func:`attviz.io.load`.
        folder: Created if it does not exist.
        figures: Names from :data:`FIGURES`; None draws all that the analysis has data for.
        layers: Layers to draw: one or several indices, slices, names or glob patterns; None draws all.
        heads: Heads to draw: one or several indices or slices. ``layers=3, heads=7`` draws a single head, its token bars for one.
        documents: Which documents get the figures that show one text: one or several indices or slices; None chooses up to three, spread
            over the data set.
        min_count: For bars, clouds and similarities; None means 5 for a hundred documents or more, else 1.
        cloud_weight: What the size of a word in a cloud means: ``"count_top"``, how often it is in the top third of the head's
            occurrences (the paper); ``"mean"`` of its diagonal; or ``"sum"``.
        special: Count [CLS], [SEP] and the like; left out by default, as in the page and the tables.
        caption: Write model and document under each figure.
        formats: ``"png"``, ``"svg"``, ``"pdf"``, or whatever matplotlib writes.
        dpi: Dots per inch, for bitmaps.

    Yields:
        The path of each file as soon as it is written.

    Raises:
        UnknownLayerError: If a layer matches nothing.
        ArgumentError: If a figure, a head or a document does not exist, there is no document at all, or the folder is a
            file.
    """
    names = list(FIGURES) if figures is None else [_known(name) for name in figures]
    least = _least_count(analysis) if min_count is None else min_count
    texts, part = _chosen(analysis, documents), choose_part(analysis, layers, heads, who="write_figures")
    source = FigureSource(part.analysis, texts, least, cloud_weight, special, part.layers, part.heads)
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise ArgumentError(f"{place}: is a file, but figures are written into a folder. Choose another output.")
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        for stem, figure in FIGURES[name](source):
            if caption:
                _caption(figure, analysis, stem)
            yield from _saved(figure, place / stem, formats, dpi)


def _caption(figure: Figure, analysis: Analysis, stem: str) -> None:
    """Write model and document into a strip below the figure, so that they cover nothing."""
    from attviz.plots._fonts import drawable, fallback_families

    number = stem.rsplit("_", 1)[-1]
    parts = [analysis.model_name or "model unknown", f"{len(analysis.documents)} documents"]
    if len(number) == 4 and number.isdecimal():
        document = analysis.documents[int(number)]
        parts[1] = f"document {int(number)}" + (f" ({document.name})" if document.name not in ("", str(int(number))) else "")
    text = drawable(shorten(" \u00b7 ".join(parts), 120))
    width, height = figure.get_size_inches()
    strip = 0.26
    engine = figure.get_layout_engine()
    if engine is None:
        figure.set_size_inches(width, height + strip)
        for ax in figure.axes:
            box = ax.get_position()
            low, tall = (box.y0 * height + strip) / (height + strip), box.height * height / (height + strip)
            ax.set_position((box.x0, low, box.width, tall))
    else:
        figure.set_size_inches(width, height + strip)
        engine.set(rect=(0, strip / (height + strip), 1, height / (height + strip)))  # type: ignore[call-arg]  # constrained: a subclass's
    figure.text(0.01, 0.06 / (height + strip), text, fontsize=7, color="#646c7a", va="bottom", fontfamily=fallback_families([text]))


def _saved(figure: Figure, stem: Path, formats: Sequence[str], dpi: int) -> Iterator[Path]:
    import matplotlib.pyplot as plt

    try:
        for suffix in formats:
            path = stem.with_name(f"{stem.name}.{suffix}")
            try:
                with replacing(path) as file:
                    figure.savefig(file, dpi=dpi, format=suffix)
            except ValueError as error:
                raise ArgumentError(f"write_figures: matplotlib cannot write the format {suffix!r}: {error}") from error
            yield path
    finally:
        plt.close(figure)


def _known(name: str) -> str:
    if name not in FIGURES:
        raise ArgumentError(f"write_figures: figures must be among {', '.join(FIGURES)}; got {name!r}.")
    return name


def _chosen(analysis: Analysis, documents: Documents) -> list[int]:
    count = len(analysis.documents)
    if not count:
        raise ArgumentError("write_figures: the analysis has no documents, so there is nothing to draw.")
    if documents is None:  # spread over the data set, so that a sorted one does not show its first class only
        return sorted({int(place) for place in np.linspace(0, count - 1, min(_SHOWN, count))})
    return choose_documents(count, documents, "write_figures")


def _least_count(analysis: Analysis) -> int:
    return 5 if len(analysis.documents) >= 100 else 1


def _each(source: FigureSource, name: str) -> Iterator[tuple[str, Document]]:
    for place in source.documents:
        document = source.analysis.documents[place]
        if document.tokens:
            yield f"{name}_{place:04d}", document


def _sequence(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    """Tokens with strokes: every head if they are few, else the mean of each layer; tinted by the mean of all; none for special tokens."""
    from attviz.plots import sequence

    for stem, document in _each(source, "sequence"):
        rows = source.values(document)  # [CLS] and [SEP] would take the whole scale
        names = [f"L{layer} H{head}" for layer in source.numbers[0] for head in source.numbers[1]]
        if rows.shape[0] * rows.shape[1] > _MOST_SEQUENCE_VECTORS:
            rows = rows.mean(axis=1)
            names = [f"mean L{layer}" for layer in source.numbers[0]]
        tint = rows.reshape(-1, len(document.tokens)).mean(axis=0)
        yield stem, sequence(rows, tokens=document.tokens, names=names, tint=tint).figure  # type: ignore[misc]


def _series(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    from attviz.plots import series

    for stem, document in _each(source, "series"):
        yield stem, series(source.values(document), tokens=document.tokens).figure  # type: ignore[misc]


def _aggregates(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    from attviz.plots import aggregates

    for stem, document in _each(source, "aggregates"):
        yield stem, aggregates(source.values(document), tokens=document.tokens).figure  # type: ignore[misc]


def _image_map(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    from attviz.plots import image_map

    for stem, document in _each(source, "image_map"):
        if document.grid is not None:
            yield stem, image_map(vectors(document).mean(axis=0), grid=document.grid).figure  # type: ignore[misc]


def _head_map(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    from attviz.plots import head_map

    if any(source.counted(document).any() for document in source.analysis.documents):
        yield "head_map", head_map(source).figure  # type: ignore[misc]


def _token_bars(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    from attviz.plots import token_bars

    if source.frequent.size and all(document.grid is None for document in source.analysis.documents[:1]):
        yield "token_bars", token_bars(source, min_count=source.min_count).figure  # type: ignore[misc]


def _word_clouds(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    """The heads with the largest mean diagonal."""
    from attviz.plots import word_clouds

    if source.frequent.size:
        yield "word_clouds", word_clouds(source)[0].figure


def _head_similarity(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    """AUFUJI between heads, over the tokens that occur often enough."""
    from attviz.plots import head_similarity

    if source.comparable():
        yield "head_similarity", head_similarity(source).figure  # type: ignore[misc]


def _distributions(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    from attviz.plots import distributions

    if source.token_values["mean"].size:
        yield "distributions", distributions(source).figure  # type: ignore[misc]


def _quantiles(source: FigureSource) -> Iterator[tuple[str, Figure]]:
    from attviz.plots import quantiles

    drawable = {name: values for name, values in source.token_values.items() if np.unique(values[values > 0]).size > 1}
    if drawable:
        yield "quantiles", quantiles(drawable).figure  # type: ignore[misc]


FIGURES: dict[str, Callable[[FigureSource], Iterator[tuple[str, "Figure"]]]] = {
    "sequence": _sequence,
    "series": _series,
    "aggregates": _aggregates,
    "head_map": _head_map,
    "token_bars": _token_bars,
    "word_clouds": _word_clouds,
    "head_similarity": _head_similarity,
    "distributions": _distributions,
    "quantiles": _quantiles,
    "image_map": _image_map,
}
