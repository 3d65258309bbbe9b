"""How the axes before queries and keys become batch and heads."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from attviz.hooks.scope.follow.axes import FEATURE, UNKNOWN, Axes, Axis, Symbol, sources


@dataclass(frozen=True, slots=True)
class Layout:
    """How the axes before queries and keys become batch and heads.

    Attributes:
        axes: The factors of each axis, outermost first: (whether it counts heads, size or None if the input decides it).
        rows: Position of the queries among the axes of the softmax.
        keys: Position of the keys.
    """

    axes: tuple[tuple[tuple[bool, int | None], ...], ...]
    rows: int
    keys: int

    @property
    def plain(self) -> bool:
        """Whether it is ``[batch, num_heads, q_len, kv_len]`` as it stands."""
        heads = [[head for head, _ in factors] for factors in self.axes]
        return len(heads) == 2 and not any(heads[0]) and all(heads[1])


def moved(axis: Axis) -> bool:
    """Whether an index reordered tokens."""
    return any(symbol.kind == "by" and symbol.parts[0] in ("pick", "placed") and symbol.roots for symbol in axis)


def layout_of_axes(leading: Axes, sizes: tuple[int, ...], rows: int, keys: int, summed: frozenset[Symbol]) -> Layout:
    """The layout of a softmax or query with these leading axes, whose product sums over axes derived from ``summed``."""
    axes = []
    for place, (axis, size) in enumerate(zip(leading, sizes, strict=True)):
        factors: list[tuple[bool, int | None]] = []
        for symbol in axis:
            of_heads = _of_heads(symbol, place, summed)
            if factors and factors[-1][0] == of_heads:
                before = factors[-1][1]
                factors[-1] = (of_heads, before * symbol.size if of_heads and before is not None else None)
            else:
                factors.append((of_heads, symbol.size if of_heads else None))
        if not factors:
            factors = [(place > 0 and size == 1, None if size > 1 or place == 0 else 1)]
        axes.append(tuple(factors))
    return Layout(tuple(axes), rows, keys)


def _of_heads(symbol: Symbol, place: int, summed: frozenset[Symbol]) -> bool:
    """Whether an axis counts heads: heads derive from features, as does the summed axis. Among unknown axes, the first is the batch."""
    if symbol.rank == FEATURE or sources((symbol,)) & summed:
        return True
    return symbol.rank <= UNKNOWN and place > 0 and not moved(tuple(sources((symbol,))))


def arranged(diagonal: Tensor, layout: Layout, *, view: bool = False) -> Tensor | None:
    """A diagonal ``[..., tokens]`` (or weights, with their last axis taken along) as ``[batch, num_heads, tokens]``.

    None if the sizes do not show how to split an axis, or if ``view`` is requested but a copy would be needed.
    """
    shape: list[int] = []
    heads: list[bool] = []
    for factors, size in zip(layout.axes, diagonal.shape, strict=False):
        fixed = math.prod(length for _, length in factors if length is not None)
        open_ones = sum(length is None for _, length in factors)
        if open_ones > 1 or (fixed and size % fixed) or (not open_ones and fixed != size):
            return None
        for of_heads, length in factors:
            shape.append(size // fixed if length is None else length)
            heads.append(of_heads)
    rest = diagonal.shape[len(layout.axes) :]
    split = diagonal.reshape(*shape, *rest)
    order = [place for place, head in enumerate(heads) if not head] + [place for place, head in enumerate(heads) if head]
    moved = split.permute(*order, *range(len(shape), split.ndim))
    batch = math.prod(shape[place] for place in order if not heads[place])
    result = (batch, math.prod(shape[place] for place in order if heads[place]), *rest)
    if not view:
        return moved.reshape(result)
    try:
        return moved.view(result)
    except RuntimeError:
        return None
