"""Disturbs one token of a module's input and observes how the attention inside responds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attviz.checking.pattern import Arrangement, Pattern, Verdict, arrangement_of, pattern_of, shared_keys
from attviz.checking.untouched import fresh, same_random_numbers, tensors_in, untouched
from attviz.checking.watch import Seen, watching

_RANK: tuple[Verdict, ...] = ("self", "shared", "apart", "once", "mixed", "rows", "keys", "untouched")
# How changes are looked at: as they are; then without what a row has in common (its largest score, subtracted by the model).
_LOOKS: tuple[dict[str, Any], ...] = ({}, {"shifted": True})
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
    """

    seen: Seen
    module: str
    verdict: Verdict
    arrangement: Arrangement | None = None
    tokens: tuple[tuple[int, int], ...] = ()


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
    for group in _groups((args, kwargs)):
        afters: list[list[Seen]] = []
        for tried, places in enumerate(_places(group[0])):
            trials = [run(_disturbed(group, place)) for place in places]
            if any([seen.shape for seen in trial] != [seen.shape for seen in before] for trial in trials):
                continue  # what runs depends on the values
            afters += trials
            judged = [_unless_projected(finding, group[0]) for finding in _judged(name, before, afters)]
            found = [_better(old, new) for old, new in zip(found, judged, strict=True)]
            if all(finding.verdict == "self" for finding in found):
                return found
            clear = ("mixed",) if tried < _ENOUGH else ("mixed", "rows", "keys")
            if all(finding.verdict in ("self", "shared", *clear) for finding in found):
                break
    return found


def _judged(name: str, before: list[Seen], afters: list[list[Seen]]) -> list[Finding]:
    return [_finding(name, seen, [after[index] for after in afters]) for index, seen in enumerate(before)]


def _finding(name: str, seen: Seen, afters: list[Seen]) -> Finding:
    worst: Verdict = "untouched"
    for look in _LOOKS:
        patterns = [_pattern(seen, after, look) for after in afters]
        own = [pattern for pattern in patterns if pattern.verdict == "self"]
        verdicts = {pattern.verdict for pattern in patterns}
        if "mixed" not in verdicts and seen.shape[-1] < seen.shape[-2] and shared_keys(own):
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
    return min(old, new, key=lambda finding: _RANK.index(finding.verdict))


def _groups(given: Any) -> Iterator[list[Tensor]]:
    """Inputs that can carry tokens, each with those of equal value: ``attention(x, x, x)`` uses the same tokens as queries and keys."""
    groups: list[list[Tensor]] = []
    for tensor in tensors_in(given):
        if not tensor.is_floating_point() or tensor.ndim < 2 or not tensor.numel() or _is_mask(tensor):
            continue
        same = next((group for group in groups if group[0] is tensor or _equal(group[0], tensor)), None)
        if same is None:
            groups.append([tensor])
        else:
            same.append(tensor)
    yield from groups


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.is_nested or other.is_nested:
        return False
    return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))


def _is_mask(tensor: Tensor) -> bool:
    """Whether it holds nothing but zero and one large negative number."""
    if tensor.is_nested:
        return False
    low = tensor.min()
    return bool(((tensor == 0) | (tensor == low)).all()) and float(low) <= 0.0


def _places(tensor: Tensor) -> Iterator[list[Index]]:
    """Pairs of neighbouring tokens: in the middle first, then further out, in case packed images or windows separate the middle.

    Channels are first assumed to be the last axis, then the second, as in images and sounds.
    """
    if tensor.is_nested:
        yield [(0, len(tensor[0]) // 2 - step) for step in (0, 1)]
        return
    for eighth in (4, 1, 6, 2, 7):
        yield [_pair(tensor.shape[:-1], eighth, step) for step in (0, 1)]
    if tensor.ndim >= 3:
        first, *rest = (tensor.shape[0], *tensor.shape[2:])
        yield [(_pair((first,), 4, step)[0], slice(None), *_pair(tuple(rest), 4, step)) for step in (0, 1)]


def _pair(sizes: tuple[int, ...], eighth: int, step: int) -> Index:
    # one further in long inputs, so that a pair does not straddle two of the blocks over which keys are pooled
    return tuple(max(size * eighth // 8 + (size > 8) - step, 0) for size in sizes)


def _disturbed(group: list[Tensor], place: Index) -> dict[int, Any]:
    """Copies of the inputs of a group with one token moved by as much as tokens differ."""
    return {id(tensor): _moved(group[0].detach(), place) for tensor in group}


def _moved(original: Tensor, place: Index) -> Tensor:
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
    channels_first = any(isinstance(index, slice) for index in place)
    tokens = (original.movedim(1, -1) if channels_first else original).detach().float().cpu().flatten(0, -2)
    spread = tokens.std(0) if len(tokens) > 1 else torch.zeros(tokens.shape[-1])
    return torch.where(spread > 0, spread, max(float(tokens.std().nan_to_num(0.0)), 0.0) or 1.0)
