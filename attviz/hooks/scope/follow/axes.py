"""Where an axis comes from: symbols for the axes of a model's inputs, and how views, slices and concatenations transform them.

An axis is a tuple of symbols in row-major order: ``[batch * heads, tokens]`` is ``((batch, heads), (tokens,))``. Reshaping regroups the
symbols, so axes whose sizes happen to be equal are never confused. Equal symbols mean that index ``i`` is the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Shape = Sequence[int]

INPUT, FEATURE, UNKNOWN, CONSTANT, SPREAD = 4.0, 2.0, 1.0, 0.0, -1.0  # ranks: of two axes that meet, the higher names the result


@dataclass(frozen=True, slots=True, eq=False)
class Symbol:
    """One source of indices; two are the same only if they are the same object (see :class:`Symbols`).

    Attributes:
        kind: ``"in"`` an axis of an input, ``"weight"`` an output axis of a parameter, ``"learned"`` an axis of a parameter itself,
            ``"made"`` of a tensor created in the forward, ``"kept"`` of one that was there before (a cache, a memory), ``"spread"`` an
            expanded axis, ``"stack"`` stacked heads; ``"sub"``, ``"slice"``, ``"cat"``, ``"by"`` are derived from others.
        size: Number of indices.
        rank: Decides which of two axes names the result when they meet.
        parts: The symbols it is derived from.
        depth: Number of steps from an input.
        roots: The inputs it comes from.
        kept: Whether it comes from something that was kept from before the forward.
    """

    kind: str
    size: int
    rank: float
    parts: tuple[Hashable, ...] = ()
    depth: int = 0
    roots: frozenset[object] = frozenset()
    kept: bool = False


Axis = tuple[Symbol, ...]
Axes = tuple[Axis, ...]


def size_of(axis: Axis) -> int:
    """Number of indices of an axis."""
    return math.prod(symbol.size for symbol in axis)


def rank_of(axis: Axis) -> float:
    """Rank of an axis: that of its highest symbol."""
    return max((symbol.rank for symbol in axis), default=-2.0)


def roots_of(axis: Axis) -> frozenset[object]:
    """The inputs an axis comes from."""
    return frozenset().union(*(symbol.roots for symbol in axis))


def of_texts(axis: Axis) -> bool:
    """Whether an axis is the batch of an input: the first of features by tokens and texts, or of token ids."""
    return len(axis) == 1 and axis[0].kind == "in" and axis[0].parts[-2] is True


def of_input(axis: Axis) -> bool:
    """Whether an axis is known to come from an input (tokens or batch)."""
    return rank_of(axis) > FEATURE


def crossed(one: Axes, two: Axes) -> bool:
    """Whether the axes before queries and keys belong to different texts: each side has a part of an input's axis that the other lacks."""
    left, right = ({symbol for axis in axes for symbol in axis if symbol.roots and symbol.rank != FEATURE} for axes in (one, two))
    return any(symbol.roots & other.roots for symbol in left - right for other in right - left)


def in_slices(axes: Axes) -> bool:
    """Whether a part of an axis was cut out that counts texts and heads together."""
    whole: list[Axis] = [symbol.parts[-1] for axis in axes for symbol in axis if symbol.kind == "slice"]  # type: ignore[misc]
    return any(of_input(axis) and any(symbol.rank == FEATURE for symbol in axis) for axis in whole)


def sources(axis: Axis) -> frozenset[Symbol]:
    """The symbols an axis was split off."""
    return frozenset(_root(symbol)[0] for symbol in axis)


def learned(axis: Axis) -> bool:
    """Whether an axis is one of features or of something created in the forward, not one of tokens."""
    rank = rank_of(axis)
    return rank == FEATURE or rank <= CONSTANT


def of_parameters(axis: Axis) -> bool:
    """Whether an axis is one of features, or of a parameter, and nothing else."""
    return all(
        symbol.rank == FEATURE or symbol.kind == "learned" or (bool(symbol.parts[-1]) and of_parameters(symbol.parts[-1]))  # type: ignore[arg-type]
        for symbol in axis
    )


class Symbols:
    """Creates symbols, each only once: the same construction returns the same object."""

    def __init__(self) -> None:
        self._known: dict[tuple[Hashable, ...], Symbol] = {}
        self._count = 0
        self._numbers: dict[Axis, int] = {}
        self._meetings: set[frozenset[Axis]] = set()

    def fresh(self) -> int:
        """A unique number."""
        self._count += 1
        return self._count

    def make(self, kind: str, size: int, rank: float, *parts: Hashable, of: Axis = (), root: object = None) -> Symbol:
        """The symbol of this construction; ``of`` names the axis it is derived from, ``root`` the input it is an axis of."""
        key = (kind, size, *parts, of)
        found = self._known.get(key)
        if found is None:
            roots = roots_of(of) if root is None else frozenset([root])
            depth = 1 + max((symbol.depth for symbol in of), default=-1)
            kept = kind == "kept" or any(symbol.kept for symbol in of)
            found = self._known[key] = Symbol(kind, size, rank, (*parts, of), depth, roots, kept)
        return found

    def number(self, axis: Axis) -> int:
        """The same number for the same axis."""
        return self._numbers.setdefault(axis, len(self._numbers) + 1)

    # ---- views

    def sub(self, base: Symbol, inner: int, size: int) -> Symbol:
        """The part of an axis that counts in steps of ``inner``, ``size`` of them: one side of a split."""
        root, step = _root(base)
        if inner * step == 1 and size == root.size:
            return root
        return self.make("sub", size, root.rank, inner * step, of=(root,))

    def joined(self, axis: Axis) -> Axis:
        """Neighbours that were one symbol before a split put together again."""
        found: list[Symbol] = []
        for symbol in axis:
            if found:
                (left, step), (right, inner) = _root(found[-1]), _root(symbol)
                if left is right and step == inner * symbol.size:
                    whole = inner == 1 and found[-1].size * symbol.size == left.size
                    found[-1] = left if whole else self.make("sub", found[-1].size * symbol.size, left.rank, inner, of=(left,))
                    continue
            found.append(symbol)
        return tuple(found)

    def reshaped(self, axes: Axes, shape: Shape) -> Axes | None:
        """Axes after a row-major reshape; None if a new axis cuts an old one in a way that no split describes."""
        rest = [symbol for axis in axes for symbol in axis if symbol.size > 1]
        rest.reverse()
        result: list[Axis] = []
        for wanted in shape:
            taken: list[Symbol] = []
            need = wanted
            while need > 1:
                if not rest:
                    return None
                symbol = rest.pop()
                if need % symbol.size == 0:
                    taken.append(symbol)
                    need //= symbol.size
                elif symbol.size % need == 0:
                    inner = symbol.size // need
                    taken.append(self.sub(symbol, inner, need))
                    rest.append(self.sub(symbol, 1, inner))
                    need = 1
                else:
                    return None
            result.append(self.joined(tuple(taken)))
        return tuple(result)

    def sliced(self, axis: Axis, start: int, length: int, step: int = 1) -> Axis:
        """Every ``step``-th index from ``start`` on."""
        if step == 1 and start == 0 and length == size_of(axis):
            return axis
        if len(axis) == 1 and step == 1:
            if axis[0].kind == "slice" and axis[0].parts[1] == 1:
                inner: Axis = axis[0].parts[-1]  # type: ignore[assignment]
                return self.sliced(inner, start + axis[0].parts[0], length)  # type: ignore[operator]
            pieces = pieces_of(axis)
            covered = _covered(pieces, start, length) if len(pieces) > 1 else None
            if covered is not None:
                return self.concatenated(covered)
        return (self.make("slice", length, rank_of(axis), start, step, of=axis),)

    def concatenated(self, pieces: Sequence[tuple[Axis, int]], rank: float = CONSTANT) -> Axis:
        """Pieces (axis, length) one after the other; adjacent slices become what they were cut from.

        Args:
            pieces: Axis and length of each; a single token has no axis.
            rank: Lowest rank of the result.
        """
        found: list[tuple[Axis, int]] = []
        for axis, length in (piece for whole, size in pieces for piece in pieces_of(whole, size)):
            if length == 0:
                continue
            together = self._rejoined(found[-1], (axis, length)) if found else None
            if together is not None:
                found[-1] = together
            else:
                found.append((axis, length))
        if len(found) == 1:
            return found[0][0]
        of = tuple(symbol for axis, _ in found for symbol in axis)
        rank = max([rank, *(rank_of(axis) for axis, _ in found)])
        return (self.make("cat", sum(length for _, length in found), rank, tuple(found), of=of),)

    def _rejoined(self, one: tuple[Axis, int], two: tuple[Axis, int]) -> tuple[Axis, int] | None:
        if len(one[0]) != 1 or len(two[0]) != 1:
            return None
        left, right = one[0][0], two[0][0]
        if left.kind != "slice" or right.kind != "slice" or left.parts[1] != 1 or right.parts[1] != 1 or left.parts[-1] != right.parts[-1]:
            return None
        if left.parts[0] + left.size != right.parts[0]:  # type: ignore[operator]
            return None
        length = left.size + right.size
        return self.sliced(left.parts[-1], left.parts[0], length), length  # type: ignore[arg-type]

    def derived(self, what: str, axis: Axis, size: int, *parts: Hashable, rank: float | None = None) -> Axis:
        """An axis whose indices are no longer those of ``axis``, but derived from them by a named operation."""
        return () if size <= 1 else (self.make("by", size, rank_of(axis) if rank is None else rank, what, *parts, of=axis),)

    def single(self, size: int, streams: frozenset[int], learned_from: frozenset[int] = frozenset(), kept: bool = False) -> Axis:
        """The axis of a single token that is stacked with others: identified by what it depends on; a learned one by its parameters."""
        if size != 1:
            return ()
        of = (self.make("kept", 1, CONSTANT, self.fresh()),) if kept else ()
        if streams:
            return (self.make("one", 1, UNKNOWN, streams, frozenset[int](), of=of),)
        return (self.make("one", 1, CONSTANT, frozenset[int](), learned_from, self.fresh(), of=of),)

    def spread(self, size: int) -> Axis:
        """An expanded axis: every index is the same."""
        return () if size <= 1 else (self.make("spread", size, SPREAD),)

    def beside(self, candidates: Sequence[Axis]) -> Axis:
        """The name of an axis of concatenated tensors: between a given cache and a layer's result, that of the layer's features."""
        return next((axis for axis in candidates if rank_of(axis) == FEATURE), None) or self.met(candidates)

    def meet(self, candidates: Sequence[Axis]) -> Axis:
        """The name of an axis where tensors were combined element by element, so that index ``i`` of each is the same."""
        if len(candidates) > 1 and candidates[0] and candidates[-1] and candidates[0] != candidates[-1]:
            self._meetings.add(frozenset([candidates[0], candidates[-1]]))
        return self.met(candidates)

    def have_met(self, one: Axis, other: Axis) -> bool:
        """Whether index ``i`` of two axes is the same."""
        return one == other or frozenset([one, other]) in self._meetings

    @staticmethod
    def met(candidates: Sequence[Axis]) -> Axis:
        """The name of an axis where several meet: the one nearest to an input."""
        return max(candidates, key=lambda axis: (rank_of(axis), -max((symbol.depth for symbol in axis), default=0)), default=())


def pieces_of(axis: Axis, length: int | None = None) -> tuple[tuple[Axis, int], ...]:
    """The pieces of a concatenated axis; any other axis is one piece."""
    if len(axis) == 1 and axis[0].kind == "cat":
        return axis[0].parts[0]  # type: ignore[return-value]
    return ((axis, size_of(axis) if length is None else length),)


def _covered(pieces: Sequence[tuple[Axis, int]], start: int, length: int) -> list[tuple[Axis, int]] | None:
    """The pieces that a slice consists of; None if it cuts one."""
    found: list[tuple[Axis, int]] = []
    at = 0
    for piece in pieces:
        if at == start and length >= piece[1] > 0:
            found.append(piece)
            start += piece[1]
            length -= piece[1]
        at += piece[1]
    return found if found and length == 0 else None


def _root(symbol: Symbol) -> tuple[Symbol, int]:
    if symbol.kind == "sub":
        return symbol.parts[-1][0], symbol.parts[0]  # type: ignore[index, return-value]
    return symbol, 1
