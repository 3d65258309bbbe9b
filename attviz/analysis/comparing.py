"""``attviz.compare``: the same texts through two models, or a series of checkpoints, and what changed in each head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from attviz.analysis.comparison import Comparison
from attviz.analysis.run import analyze
from attviz.errors import ArgumentError
from attviz.plots._source import ordinary
from attviz.readings import Reading
from attviz.records import Analysis, Document

Compared = nn.Module | Analysis | str | Callable[[], nn.Module]


def compare(
    a: Compared | Sequence[Compared],
    b: Compared | None = None,
    texts: Iterable[str] = (),
    tokenizer: Any = None,
    *,
    names: Sequence[str] | None = None,
    reading: Reading | None = None,
    steps: Sequence[float] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Run the same texts through two models and report which heads attend to their own position differently, and how certain that is.

    The models can be two checkpoints, the same model before and after fine-tuning, in two precisions, or with two attention kernels:
    anything with the same tokens, layers and heads. A list of three or more is a series, drawn as curves over its steps.

    Args:
        a: A model; the name or folder of one; a function without arguments that loads one when needed, so that large models are not in
            memory together; or an existing ``Analysis``. Or a list of these, without ``b``.
        b: The other model.
        texts: The texts; omit them for two analyses.
        tokenizer: The tokenizer of all models; names and folders have their own.
        reading: Compare this reading of each token, such as ``Offset(-1)`` or ``RowEntropy()``, instead of the diagonal. Tokens where it
            is NaN (the first token has no previous one) do not count.
        names: Names for the models; their own by default.
        steps: Positions of the models of a series on the axis, such as training steps; counted from 0 by default.
        resamples: Bootstrap samples.
        level: Confidence level of the intervals.
        seed: Seed of the bootstrap.
        **options: Passed to :func:`attviz.analyze`, such as ``batch_size=``, ``max_length=`` or ``layers=``; diagonals are kept in float32.

    Returns:
        The comparison: ``.table``, ``.figure``, ``.ranked()``, ``.view()``.

    Raises:
        ArgumentError: If the models do not have the same tokens, layers and heads, or an option is invalid.
    """
    compared = list(a) if b is None and isinstance(a, Sequence) and not isinstance(a, str) else [a, b]
    if len(compared) < 2 or any(one is None for one in compared):
        raise ArgumentError("compare: needs two models, compare(a, b, texts, tokenizer), or a list of models as the first argument.")
    if resamples < 100 or not 0 < level < 1:
        raise ArgumentError(f"compare: resamples={resamples} must be at least 100 and level={level} between 0 and 1.")
    if steps is not None and len(steps) != len(compared):
        raise ArgumentError(f"compare: steps has {len(steps)} entries for {len(compared)} models.")
    if names is not None and len(names) != len(compared):
        raise ArgumentError(f"compare: names has {len(names)} entries for {len(compared)} models.")
    read = list(texts)
    if reading is not None:
        options = options | {"reading": reading}
    analyses = tuple(_analysis(one, read, tokenizer, options) for one in compared)
    for other in analyses[1:]:
        _check(analyses[0], other)
    called = tuple(names) if names is not None else _names(analyses)
    return _compared(analyses, called, tuple(steps or range(len(analyses))), reading, resamples, level, seed)


def _analysis(one: Any, texts: list[str], tokenizer: Any, options: dict[str, Any]) -> Analysis:
    if isinstance(one, Analysis):
        _check_reading(one, options.get("reading"))
        return one
    if not texts:
        raise ArgumentError("compare: texts= is empty. Pass at least one text.")
    if isinstance(one, str):
        from attviz.analysis.models import load_model

        one, own = load_model(one, classify=False)
        tokenizer = own if tokenizer is None else tokenizer
    elif not isinstance(one, nn.Module):
        if not callable(one):
            raise ArgumentError(f"compare: pass models, their names, functions that load one, or analyses; got {type(one).__name__}.")
        one = one()
    if tokenizer is None:
        raise ArgumentError("compare: tokenizer= is missing. Pass the one that all models share.")
    chosen: dict[str, Any] = {"precision": "float32", "progress": False} | options
    return analyze(one, tokenizer, texts, **chosen)


def _check_reading(one: Analysis, reading: Reading | None) -> None:
    """Refuse an analysis that holds something else than what is compared."""
    held, wanted = one.settings.get("reading"), None if reading is None else reading.name
    if held != wanted:
        raise ArgumentError(
            f"compare: this analysis holds {held or 'the diagonal'}, not {wanted or 'the diagonal'}. Create it with "
            f"attviz.analyze(model, tokenizer, texts{'' if wanted is None else ', reading=...'})."
        )


def _check(first: Analysis, other: Analysis) -> None:
    if len(first.documents) != len(other.documents):
        raise ArgumentError(f"compare: one analysis has {len(first.documents)} texts, the other {len(other.documents)}.")
    if not len(first.documents):
        raise ArgumentError("compare: the analyses have no texts.")
    for place, (one, two) in enumerate(zip(first.documents, other.documents, strict=True)):
        if one.tokens != two.tokens:
            raise ArgumentError(
                f"compare: text {place} is split differently by the two models ({len(one.tokens)} and {len(two.tokens)} "
                "tokens). Only models "
                "that share a tokenizer can be compared token by token."
            )
        if one.diagonal.shape != two.diagonal.shape:
            raise ArgumentError(
                f"compare: the models have [num_layers, num_heads] = {list(one.diagonal.shape[:2])} and {list(two.diagonal.shape[:2])}; "
                "so their heads do not correspond. Choose matching layers with layers=."
            )


def _names(analyses: Sequence[Analysis]) -> tuple[str, ...]:
    known = [analysis.model_name for analysis in analyses]
    if all(known) and len(set(known)) == len(known):
        return tuple(known)
    return ("a", "b") if len(analyses) == 2 else tuple(f"model {place}" for place in range(len(analyses)))


def _compared(
    analyses: tuple[Analysis, ...],
    names: tuple[str, ...],
    steps: tuple[float, ...],
    reading: Reading | None,
    resamples: int,
    level: float,
    seed: int,
) -> Comparison:
    sums, changes, counts = _text_sums(analyses)
    total = counts.sum()
    if not total:
        what = "" if reading is None else f", or has no {reading.name!r}"
        raise ArgumentError(f"compare: every token of the texts is special{what}, so there is nothing to compare.")
    draws = bootstrap_means(np.concatenate([sums, sums[-1:] - sums[:1]]), counts, resamples, seed)
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    mean = sums.sum(1) / total
    return Comparison(
        names=names,
        steps=tuple(map(float, steps)),
        layers=tuple(analyses[0].layers),
        mean=mean,
        mean_low=low[:-1],
        mean_high=high[:-1],
        difference=mean[-1] - mean[0],
        low=low[-1],
        high=high[-1],
        change=changes.sum(0) / total,
        analyses=analyses,
        num_tokens=int(total),
        level=level,
        reading=reading,
    )


def _text_sums(analyses: Sequence[Analysis]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per text: sums of the diagonal ``[num_models, num_texts, num_layers, num_heads]``, of the absolute change, and tokens that count."""
    sums: list[list[np.ndarray]] = []
    changes: list[np.ndarray] = []
    counts: list[int] = []
    for place in range(len(analyses[0].documents)):
        documents: list[Document] = [analysis.documents[place] for analysis in analyses]
        kept = ordinary(documents[0])
        for document in documents:  # a reading has no number where there is no such key
            kept = kept & ~np.isnan(document.diagonal).any((0, 1))
        values = [document.diagonal[:, :, kept].astype(np.float64) for document in documents]
        sums.append([value.sum(2) for value in values])
        changes.append(np.abs(values[-1] - values[0]).sum(2))
        counts.append(int(kept.sum()))
    return np.asarray(sums).swapaxes(0, 1), np.asarray(changes), np.asarray(counts, dtype=np.float64)


def bootstrap_means(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over resampled texts (Efron and Tibshirani 1993), ``[resamples, num_series, ...]``.

    A resample draws as many texts as there are, with replacement, and pools their tokens.

    Args:
        sums: Sums over the tokens of each text, ``[num_series, num_texts, ...]``.
        counts: Tokens of each text.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        NaN everywhere for a single text, which does not show how texts vary.

    Example:
        >>> sorted({float(mean) for mean in bootstrap_means(np.array([[1.0, 3.0]]), np.array([1.0, 1.0]), 100, 0)[:, 0]})
        [1.0, 2.0, 3.0]
    """
    num_texts = len(counts)
    shape = (resamples, sums.shape[0], *sums.shape[2:])
    if num_texts < 2:
        return np.full(shape, np.nan)
    drawn = np.random.default_rng(seed).multinomial(num_texts, np.full(num_texts, 1 / num_texts), size=resamples).astype(np.float64)
    tokens = drawn @ counts
    flat = np.moveaxis(sums, 1, 0).reshape(num_texts, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: np.ndarray = (drawn @ flat) / tokens[:, None]
    return means.reshape(shape)
