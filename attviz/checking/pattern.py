"""What a disturbed token changed: which row, which key, which axes. Decides what an attention is without using names or sizes.

One token of a module's input is disturbed and the scores are compared with the undisturbed ones. In self-attention the token's own row
changes as a whole (its query changed), and in every other row exactly one key changes: the token's own. If whole rows change but no single
key does, query and key come from different tokens (cross-attention, a router over experts). If everything changes, tokens were mixed before
(attention over channels, a second attention after a first).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attviz.checking.scores import NEVER_A_SCORE

Verdict = Literal["self", "shared", "apart", "once", "rows", "keys", "mixed", "untouched"]
_WHOLE = 0.1  # of the keys that a row sees: a disturbed query changes its score with each, but with those that are zero (fresh tokens)
Cell = tuple[int, ...]  # indices of all axes but the last


@dataclass(frozen=True)
class Pattern:
    """How one disturbed token shows in the scores.

    Attributes:
        verdict: ``self``: a row and its key; ``shared``: a row and a key, one of which it shares with other tokens (pooled); ``rows``: rows
            only; ``keys``: keys only; ``mixed``: more than one token can explain. For several tokens and inputs: ``once``: of several
            tokens, one only is ``self``; ``apart``: one input changes rows only, another keys only.
        rows: Of ``self`` and ``rows``: the cells whose row changed as a whole, one for each head, in order.
        row_axis: Of ``self``: the axis that numbers queries.
        own: Of ``self``: the own key of the row, one for each of ``rows``; of ``keys``: the key that changed, where it is one.
        shift: Of ``self``: 0 where keys are numbered for all rows alike, 1 where each row counts from itself (bands).
    """

    verdict: Verdict
    rows: tuple[Cell, ...] = ()
    row_axis: int = -1
    own: tuple[int, ...] = ()
    shift: int = 0


def pattern_of(before: Tensor, after: Tensor, visible: Tensor, *, share: float = 1e-3, shifted: bool = False) -> Pattern:
    """Compare scores before and after a token was disturbed.

    Args:
        before: Scores, keys on the last axis, float64.
        after: The same with one token disturbed.
        visible: Where a key is visible to a query.
        share: A change counts from this share of the largest change of its row on.
        shifted: Leave out what all keys of a row have in common: models subtract the row's largest score before the softmax, which
            changes no weight.
    """
    moved = torch.where(before == after, 0.0, after - before).nan_to_num(0.0, posinf=float("inf"), neginf=float("-inf"))
    if shifted:
        common = torch.where(visible & moved.isfinite(), moved, float("nan")).nanmedian(-1, keepdim=True).values
        moved = moved - common.nan_to_num(0.0)
        visible = visible & (visible.sum(-1, keepdim=True) > 2)  # of two keys, either may be the common one
    moved = torch.where(visible, moved.abs(), 0.0)
    finite = moved[moved.isfinite()]
    largest = float(finite.max()) if finite.numel() else 0.0
    scores = before[visible & (before > NEVER_A_SCORE)]
    size = float(scores.abs().max()) if scores.numel() else 0.0
    if largest <= 1e-9 * max(size, 1e-6):
        return Pattern("untouched")
    strongest = torch.where(moved.isfinite(), moved, 0.0).amax(-1, keepdim=True)  # heads differ in scale
    changed = (moved > share * strongest) & (moved > share * share * largest)
    touched, seen = changed.sum(-1), visible.sum(-1)
    whole = (touched >= 2) & (touched >= _WHOLE * seen)
    partly = (touched >= 1) & ~whole & (seen >= 2)
    if not bool(whole.any()):
        if not bool(partly.any()):
            return Pattern("untouched")
        keys = {cell[-1] for cell in (changed & partly[..., None]).nonzero().tolist()}
        return Pattern("keys", own=tuple(keys) if len(keys) == 1 else ())
    rows = tuple(tuple(cell) for cell in whole.nonzero().tolist())
    if not bool(partly.any()):
        return Pattern("mixed" if bool((whole | (seen < 2)).all()) and before.shape[-2] > 1 and whole.sum() > 1 else "rows", rows)
    return _with_own_keys(rows, partly, moved) or Pattern("mixed", rows)


def _with_own_keys(rows: tuple[Cell, ...], partly: Tensor, moved: Tensor) -> Pattern | None:
    """The pattern of self-attention, if every row finds its key in its neighbours; else None."""
    axes = [axis for axis in range(partly.ndim) if all(bool(_line(partly, row, axis).any()) for row in rows)]
    if len(axes) != 1:
        return None
    axis = axes[0]
    if len({row[axis] for row in rows}) != 1:
        return None  # more than one query changed: a convolution before the attention, or a token that is several
    own, shifts = [], set()
    for row in rows:
        place = row[axis]
        neighbours = sorted(_line(partly, row, axis).nonzero().flatten().tolist(), key=lambda other: abs(other - place))
        keys = [(other, int(_line(moved, row, axis)[other].argmax())) for other in neighbours]
        straight, banded = {key for _, key in keys}, {key + other - place for other, key in keys}
        if len(straight) == 1:
            own.append(straight.pop())
            shifts.add(0)
        elif len(banded) == 1:
            own.append(banded.pop())
            shifts.add(1)
        else:
            return None
    return Pattern("self", rows, axis, tuple(own), shifts.pop()) if len(shifts) == 1 else None


def _line(tensor: Tensor, row: Cell, axis: int) -> Tensor:
    """All queries of the same text and head as ``row``."""
    where: list[int | slice] = list(row)
    where[axis] = slice(None)
    return tensor[tuple(where)]


@dataclass(frozen=True)
class Arrangement:
    """Where text, head, query and own key stand in a softmax, as the disturbed tokens showed it.

    Attributes:
        row_axis: Numbers the queries.
        head_axes: Axes along which one token's rows lie: its heads.
        folded: (axis, heads, first) where heads share an axis with texts; ``first`` is True where heads run faster.
        offset: Own key of query 0, or of every query where keys are counted from the row (``banded``).
        banded: Keys are counted from the row.
    """

    row_axis: int
    head_axes: tuple[int, ...]
    folded: tuple[int, int, bool] | None
    offset: int
    banded: bool

    def own(self, weights: Tensor) -> Tensor:
        """Each query's weight on its own key: [texts, heads, queries]."""
        if self.banded:
            values = weights[..., self.offset]
        else:
            queries = weights.shape[self.row_axis]
            columns = (torch.arange(queries, device=weights.device) + self.offset).clamp(0, weights.shape[-1] - 1)
            shape = [1] * weights.ndim
            shape[self.row_axis] = queries
            values = weights.gather(-1, columns.reshape(shape).expand(*weights.shape[:-1], 1)).squeeze(-1)
        return self.by_row(values)

    def by_row(self, values: Tensor) -> Tensor:
        """Values of every cell as [texts, heads, queries]."""
        row_axis, head_axes = self.row_axis, self.head_axes
        cells = values.ndim
        if self.folded is not None:
            axis, heads, fast = self.folded
            texts = values.shape[axis] // heads
            values = values.unflatten(axis, (texts, heads) if fast else (heads, texts))
            row_axis, head_axes, cells = row_axis + (row_axis > axis), (axis + 1 if fast else axis,), cells + 1
        others = [axis for axis in range(cells) if axis not in head_axes and axis != row_axis]
        texts = math.prod(values.shape[axis] for axis in others)
        heads = math.prod(values.shape[axis] for axis in head_axes)
        return values.permute(*others, *head_axes, row_axis).reshape(texts, heads, values.shape[row_axis])

    def marked(self, shape: tuple[int, ...], rows: tuple[Cell, ...]) -> tuple[int, int]:
        """(text, query) of the rows that a disturbed token changed."""
        cells = torch.zeros(shape[:-1], dtype=torch.bool)
        for row in rows:
            cells[row] = True
        text, _, query = self.by_row(cells).nonzero()[0].tolist()
        return text, query


def shared_keys(patterns: list[Pattern]) -> bool:
    """Whether different tokens answer with the same key: keys were pooled over several of them."""
    rows = {(pattern.rows, pattern.own) for pattern in patterns if not pattern.shift}
    return len({own for _, own in rows}) < len(rows)


def shared_rows(patterns: list[Pattern]) -> bool:
    """Whether different tokens ask in the same row: queries were pooled over several of them."""
    found = {(row, key) for pattern in patterns if not pattern.shift for row, key in zip(pattern.rows, pattern.own, strict=True)}
    return len({row for row, _ in found}) < len(found)


def only_query(shape: tuple[int, ...], patterns: list[Pattern], numbers: list[int]) -> Pattern | None:
    """The pattern of self-attention of a single query: one token asks, every other answers with the key at its own place.

    Such a query has no neighbours in whose rows its own key would show: it is the key that is left over.

    Args:
        shape: Of the scores.
        patterns: Of tokens of one input.
        numbers: Which token each of them is.
    """
    asking = {number: pattern for pattern, number in zip(patterns, numbers, strict=True) if pattern.verdict == "rows"}
    answering = {(number, pattern.own) for pattern, number in zip(patterns, numbers, strict=True) if pattern.verdict == "keys"}
    shifts = {own[0] - number if own else None for number, own in answering}
    if shape[-2] != 1 or len(asking) != 1 or len(answering) < 3 or len(shifts) != 1 or None in shifts:
        return None
    ((number, pattern),) = asking.items()
    own = number + shifts.pop()  # type: ignore[operator]
    if not 0 <= own < shape[-1] or any(keys == (own,) for _, keys in answering):
        return None
    return Pattern("self", pattern.rows, len(shape) - 2, (own,) * len(pattern.rows))


def arrangement_of(shape: tuple[int, ...], patterns: list[Pattern]) -> Arrangement | None:
    """The one arrangement that all disturbed tokens agree on; None where they do not."""
    found = {_arrangement(shape, pattern) for pattern in patterns}
    return found.pop() if len(found) == 1 else None


def _arrangement(shape: tuple[int, ...], pattern: Pattern) -> Arrangement | None:
    axes = [axis for axis in range(len(shape) - 1) if len({row[axis] for row in pattern.rows}) > 1]
    place = pattern.rows[0][pattern.row_axis]
    offsets = set(pattern.own) if pattern.shift else {key - place for key in pattern.own}
    if len(offsets) != 1:
        return None
    if not pattern.shift and not 0 <= min(offsets) <= shape[-1] - shape[pattern.row_axis]:
        return None  # fewer keys than queries: they are not one another's
    folded = None
    if len(axes) == 1 and len(pattern.rows) < shape[axes[0]]:
        indices = [row[axes[0]] for row in pattern.rows]
        steps = {later - sooner for sooner, later in itertools.pairwise(indices)}
        if steps not in ({1}, {shape[axes[0]] // len(indices)}):
            return None
        folded = (axes[0], len(indices), steps == {1})
    elif math.prod(shape[axis] for axis in axes) != len(pattern.rows):
        return None
    return Arrangement(pattern.row_axis, tuple(axes), folded, offsets.pop(), bool(pattern.shift))
