"""Disturbs one token of a module's input and observes how the attention inside responds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attviz.checking.inputs import Group, groups_of
from attviz.checking.pattern import Arrangement, Pattern, Verdict, arrangement_of, only_query, pattern_of, shared_keys, shared_rows
from attviz.checking.untouched import fresh, same_random_numbers, untouched
from attviz.checking.watch import Seen, watching

_RANK: tuple[Verdict, ...] = ("self", "shared", "apart", "once", "mixed", "rows", "keys", "untouched")
# How changes are looked at: as they are; then without what a row has in common (its largest score, subtracted by the model).
_LOOKS: tuple[dict[str, Any], ...] = ({}, {"shifted": True})
_ONE_SIDE = ("rows", "keys", "apart")
_ENOUGH = 2  # pairs of tokens behind the first: padding, too, asks and does not answer
Index = tuple[int | slice, ...]


@dataclass(frozen=True, eq=False)
class Finding:
    """What disturbed tokens showed about one attention.

    Attributes:
        seen: The undisturbed attention, in float64.
        module: The module whose input was disturbed.
        verdict: As in :class:`attviz.checking.pattern.Pattern`.
        arrangement: For ``self``: where text, head, query and own key are.
        tokens: For ``self``: (text, query) of the tokens that were disturbed.
        left_over: For ``self``: there is one query, and its own key is the only one that no other token changes.
    """

    seen: Seen
    module: str
    verdict: Verdict
    arrangement: Arrangement | None = None
    tokens: tuple[tuple[int, int], ...] = ()
    left_over: bool = False


def findings_of(model: nn.Module, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Finding]:
    """Run ``module`` alone on its own arguments, undisturbed and with tokens disturbed: one finding for each attention inside.

    These runs leave nothing on the module, in its caches or in the random numbers.
    """

    def run(memo: dict[int, Any] | None = None) -> list[Seen]:
        with untouched(module), same_random_numbers(), watching(model) as seen:
            memo = {} if memo is None else memo
            module(*fresh(args, memo), **fresh(kwargs, memo))
        return seen

    before = run()
    found = [Finding(seen, name, "untouched") for seen in before]
    for group in groups_of((args, kwargs)):
        best = [Finding(seen, name, "untouched") for seen in before]
        for one_of_several, pairs in _layouts(group.tensor):
            shown = _tried(name, before, run, group, pairs)
            best = [min(old, new, key=_rank) if _open(old, new) else old for old, new in zip(best, shown, strict=True)]
            if one_of_several and any(finding.verdict in _ONE_SIDE for finding in shown):
                break  # the other member of a pair answers: what moves both at once would look like self-attention
            if all(finding.verdict == "self" for finding in best):
                return best
        found = [_better(old, new) for old, new in zip(found, best, strict=True)]
        if all(finding.verdict == "self" for finding in found):
            return found
    return found


def _open(old: Finding, new: Finding) -> bool:
    """Whether another reading of an input's axes may replace what the first showed: not by less than self-attention or pooling."""
    return old.verdict in ("untouched", "mixed") or new.verdict in ("self", "shared")


def _tried(
    name: str, before: list[Seen], run: Callable[[dict[int, Any]], list[Seen]], group: Group, pairs: Iterable[list[Index]]
) -> list[Finding]:
    """What tokens of one input show, disturbed pair by pair until it is clear."""
    found = [Finding(seen, name, "untouched") for seen in before]
    places: list[Index] = []
    afters: list[list[Seen]] = []
    to_the_end = False
    for tried, pair in enumerate(pairs):
        trials = [run(group.replaced(_moved(group.tensor.detach(), place))) for place in pair]
        if any([seen.shape for seen in trial] != [seen.shape for seen in before] for trial in trials):
            continue  # what runs depends on the values
        afters += trials
        places += pair
        numbers = [_number(group.tensor, place) for place in places]
        judged = [_finding(name, seen, [after[index] for after in afters], numbers) for index, seen in enumerate(before)]
        judged = [_unless_projected(finding, group.tensor) for finding in judged]
        found = [new if _provisional(old) else _better(old, new) for old, new in zip(found, judged, strict=True)]
        to_the_end = to_the_end or any(_provisional(finding) for finding in found)
        if to_the_end:
            continue
        clear = ("self", "shared", "mixed") if tried < _ENOUGH else ("self", "shared", "mixed", "rows", "keys")
        if all(finding.verdict in clear for finding in found):
            break
    return found


def _provisional(finding: Finding) -> bool:
    """Whether there are more keys than queries, so that tokens further apart may turn out to share a query."""
    return finding.verdict == "self" and not finding.left_over and finding.seen.shape[-1] > finding.seen.shape[-2]


def _finding(name: str, seen: Seen, afters: list[Seen], numbers: list[int]) -> Finding:
    worst: Verdict = "untouched"
    for look in _LOOKS:
        patterns = [_pattern(seen, after, look) for after in afters]
        own = [pattern for pattern in patterns if pattern.verdict == "self"]
        verdicts = {pattern.verdict for pattern in patterns}
        if (asks := only_query(seen.shape, patterns, numbers)) is not None and (one := arrangement_of(seen.shape, [asks])) is not None:
            return Finding(seen, name, "self", one, (one.marked(seen.shape, asks.rows),), left_over=True)
        if "mixed" not in verdicts and (
            (seen.shape[-1] < seen.shape[-2] and shared_keys(own)) or (seen.shape[-1] > seen.shape[-2] and shared_rows(own))
        ):
            return Finding(seen, name, "shared")
        arrangement = arrangement_of(seen.shape, own) if own and "mixed" not in verdicts else None
        if arrangement is not None and len({pattern.rows for pattern in own}) > 1:  # one alone may be a coincidence
            tokens = tuple(arrangement.marked(seen.shape, pattern.rows) for pattern in own)
            return Finding(seen, name, "self", arrangement, tokens)
        worst = "mixed" if "mixed" in verdicts or (own and arrangement is None) else "once" if own else min(verdicts, key=_RANK.index)
        if worst != "mixed":
            break
    return Finding(seen, name, worst)


def _pattern(before: Seen, after: Seen, look: dict[str, Any]) -> Pattern:
    assert before.scores is not None
    assert after.scores is not None
    return pattern_of(before.scores, after.scores, before.visible, **look)


def _unless_projected(finding: Finding, given: Tensor) -> Finding:
    """Keys that arrive ready, [texts, heads, keys, head_dim], may be another layer's, of the same tokens: they prove nothing."""
    return replace(finding, verdict="untouched") if finding.verdict == "keys" and given.ndim == 4 else finding


def _better(old: Finding, new: Finding) -> Finding:
    if {old.verdict, new.verdict} == {"rows", "keys"}:
        return replace(old, verdict="apart")
    return min(old, new, key=_rank)


def _rank(finding: Finding) -> int:
    return _RANK.index(finding.verdict)


def _layouts(tensor: Tensor) -> Iterator[tuple[bool, Iterable[list[Index]]]]:
    """Pairs of neighbouring tokens: in the middle first, then further out, in case packed images or windows separate the middle.

    Channels are first assumed to be the last axis, then the second, as in images and sounds; before that, the third, as in pairs of images,
    which comes with True. They are judged apart: where channels are last, what the second takes for a token is many tokens.
    """
    if tensor.is_nested:
        yield False, [[(0, len(tensor[0]) // 2 - step) for step in (0, 1)]]
        return
    yield False, ([_pair(tensor.shape[:-1], eighth, step) for step in (0, 1)] for eighth in (4, 1, 0, 6, 2, 7))
    if tensor.ndim >= 5:
        rest = tuple(tensor.shape[3:])
        yield True, ([(0, 0, slice(None), *_pair(rest, eighth, step)) for step in (0, 1)] for eighth in (4, 1, 6))
    if tensor.ndim >= 3:
        rest = tuple(tensor.shape[2:])
        yield (
            False,
            (
                [(_pair(tensor.shape[:1], eighth, step)[0], slice(None), *_pair(rest, eighth, step)) for step in (0, 1)]
                for eighth in ((4,) if tensor.ndim == 3 else (4, 1, 6))
            ),
        )


def _number(tensor: Tensor, place: Index) -> int:
    """Which token of its text stands at ``place``, in row-major order."""
    if tensor.is_nested:
        return int(place[-1])  # type: ignore[arg-type]
    number = 0
    for size, index in list(zip(tensor.shape, place, strict=False))[1:]:
        number = number if isinstance(index, slice) else number * size + index
    return number


def _pair(sizes: tuple[int, ...], eighth: int, step: int) -> Index:
    # one further in long inputs, so that a pair does not straddle two of the blocks over which keys are pooled
    return tuple(max(size * eighth // 8 + (size > 8) - step, 0) for size in sizes)


def _moved(original: Tensor, place: Index) -> Tensor:
    """A copy with one token moved by as much as tokens differ."""
    if original.is_nested:
        text, *rest = place
        texts = list(original.unbind())
        texts[int(text)] = _moved(texts[int(text)], tuple(rest))  # type: ignore[arg-type]
        return torch.nested.nested_tensor(texts)
    copy = original.clone()
    token = copy[place]
    copy[place] = token + (_spread(original, place) * torch.randn(token.shape, generator=torch.Generator().manual_seed(0))).to(token)
    return copy


def _spread(original: Tensor, place: Index) -> Tensor:
    """How far tokens differ, channel by channel: a larger step would drown everything but the token's score with itself."""
    channels = next((axis for axis, index in enumerate(place) if isinstance(index, slice)), -1)
    tokens = original.movedim(channels, -1).detach().float().cpu().flatten(0, -2)
    spread = tokens.std(0) if len(tokens) > 1 else torch.zeros(tokens.shape[-1])
    return torch.where(spread > 0, spread, max(float(tokens.std().nan_to_num(0.0)), 0.0) or 1.0)
