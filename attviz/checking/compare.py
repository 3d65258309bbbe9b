"""Puts records and reference side by side: one row for each attention, and one for each module that was skipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attviz.checking.disturb import Finding
from attviz.checking.result import LayerCheck, Status
from attviz.checking.scores import NEVER_A_SCORE
from attviz.checking.watch import Seen
from attviz.records import DiagonalRecord

_NOTHING = float("nan")


@dataclass(frozen=True)
class Captured:
    """What a capture recorded of one forward, and what it said about the rest."""

    records: Sequence[DiagonalRecord]
    skipped: Mapping[str, str]
    missed: Mapping[str, str]
    warnings: tuple[str, ...]

    def said_about(self, layer: str) -> str | None:
        """What the error or warning says about ``layer``, which has no record."""
        if layer in self.missed:
            return self.missed[layer]
        return next((text for text in self.warnings if layer and layer in text.split("Why:")[0].replace(",", " ").split()), None) or next(
            (text for text in self.warnings if "no operator" in text), None
        )


def compare(
    model: nn.Module, captured: Captured, seen: list[Seen], findings: dict[int, Finding], masks: list[Tensor]
) -> tuple[LayerCheck, ...]:
    """Rows in order of execution; then the skipped modules in which no attention ran."""
    names = {name for name, _ in model.named_modules()}
    rows: dict[float, LayerCheck] = {}
    used: set[int] = set()
    for number, record in enumerate(captured.records):
        index = _partner(record, seen, findings, used)
        if index is None:
            rows[number - 1e6] = _row(record, "could not tell", _NOTHING, "no operator that the reference knows ran in it")
            continue
        used.add(index)
        row = _compared(record, seen[index], findings.get(index), masks)
        if record.layer is None or record.layer not in names:
            row = replace(row, status="could not tell", evidence=f"{record.layer!r} names no module of the model; " + row.evidence)
        rows[index] = row
    for index, attention in enumerate(seen):
        if index not in used and (unrecorded := _without_record(attention, findings.get(index), captured)) is not None:
            rows[index] = unrecorded
    ordered = [rows[place] for place in sorted(rows)]
    named = {row.layer for row in ordered}
    idle = [name for name in captured.skipped if not any(row == name or row.startswith(name + ".") for row in named)]
    told = {row.layer for row in ordered if row.status != "verified"}
    untold = [
        LayerCheck(name, "could not tell", _NOTHING, f"the capture says: {why or 'no attention operator was seen'}")
        for name, why in captured.missed.items()
        if name not in told
    ]
    return (*ordered, *(_idle(name, captured, seen) for name in idle), *untold)


def _partner(record: DiagonalRecord, seen: list[Seen], findings: dict[int, Finding], used: set[int]) -> int | None:
    """The attention that a record belongs to: from the first remaining call of its layer, the one that fits; the nearest of several."""
    free = [index for index, attention in enumerate(seen) if index not in used and _runs_in(record.layer, attention)]
    if record.layer is not None and free:
        inside = [index for index in free if seen[index].call_of(record.layer) is not None]
        free = inside or free  # a softmax of a module around it counts only where none ran in it
        first = seen[free[0]].call_of(record.layer)
        free = [index for index in free if seen[index].call_of(record.layer) == first]

    def distance(index: int) -> float:
        finding = findings.get(index)
        reading = None if finding is None else _reading(finding, record.diagonal)
        same_size = math.prod(seen[index].shape[:-1]) == record.diagonal.numel()
        if reading is not None and same_size:
            return _error(record.diagonal, reading)
        return 3.0 if same_size else 4.0 if reading is None else 3.5

    if record.layer is None:
        free = [index for index in free if distance(index) < 3.0][:1]
    return min(free, key=distance, default=None)


def _runs_in(layer: str | None, attention: Seen) -> bool:
    if layer is None or attention.call_of(layer) is not None:
        return True
    return layer.startswith(attention.layer + ".") or not attention.modules  # one operator for a whole encoder layer


def _reading(finding: Finding, diagonal: Tensor, values: Tensor | None = None) -> Tensor | None:
    """The reference's diagonal in the shape of the record; None if the two do not fit.

    Args:
        finding: A finding of self-attention; else None is returned.
        diagonal: Diagonal of the record.
        values: Values to read instead of the weights.
    """
    if finding.verdict != "self" or finding.arrangement is None:
        return None
    own = finding.arrangement.own(finding.seen.weights if values is None else values)
    return _fitted(own, tuple(diagonal.shape))


def _fitted(own: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """[texts, heads, queries] in the shape of a record, which joins queries that are in blocks."""
    if tuple(own.shape) == shape:
        return own
    texts, heads, queries = own.shape
    batch, record_heads, q_len = shape
    blocks = texts // batch if batch else 0
    if heads == record_heads and blocks * batch == texts and blocks * queries >= q_len > (blocks - 1) * queries:
        return own.reshape(batch, blocks, heads, queries).transpose(1, 2).flatten(2)[..., :q_len]
    return None


def _error(diagonal: Tensor, reading: Tensor) -> float:
    """Largest difference where the record has a number."""
    difference = (diagonal.double() - reading.to(diagonal.device)).abs()
    real = ~difference.isnan()
    return float(difference[real].max()) if bool(real.any()) else 0.0


def _compared(record: DiagonalRecord, seen: Seen, finding: Finding | None, masks: list[Tensor]) -> LayerCheck:
    if finding is None or finding.verdict in ("once", "mixed", "untouched", "keys", "rows"):
        return _by_sizes(record, seen, finding)
    if finding.verdict in ("apart", "shared"):
        keys = "no key, and another input changes keys" if finding.verdict == "apart" else "a key, and others change one of them too"
        what = f"a disturbed token changes its row and {keys}: what asks is not what answers, so there is no own key to record"
        return _row(record, "differs", _NOTHING, what, seen)
    reading = _reading(finding, record.diagonal)
    if reading is None:
        sizes = f"{list(record.diagonal.shape)} recorded, {list(finding.seen.shape)} in the model"
        return _row(record, "could not tell", _NOTHING, f"the shapes do not fit together: {sizes}", seen)
    error = _error(record.diagonal, reading)
    if not error <= finding.seen.rounding:
        return _row(record, "differs", error, f"{_disturbed(finding)}; the weights on the own key are others", seen)
    if (fault := _padding_fault(record, finding, masks)) is not None:
        return _row(record, "differs", error, fault, seen)
    return _row(record, "verified", error, _disturbed(finding), seen)


def _disturbed(finding: Finding) -> str:
    text, token = finding.tokens[0]
    if finding.left_over:
        return f"one token of text {text} asks, and every other token moves the key at its own place: the key that is left is its own"
    return f"token {token} of text {text}, disturbed, changes its row and its key only"


def _by_sizes(record: DiagonalRecord, seen: Seen, finding: Finding | None) -> LayerCheck:
    """Without help from the disturbance: compare with the one reading that the sizes allow, and say how much that proves."""
    scores = None if finding is None else finding.seen.scores
    if finding is None or scores is None:
        return _row(record, "could not tell", _NOTHING, "the modules around it could not be run by themselves", seen)
    why = {
        "once": "one disturbed token changes its row and its key, others do not: padding, or a text too short to tell",
        "mixed": "a disturbed token changes more than its row and its key: tokens were mixed before",
        "untouched": "no input of the modules around it carries tokens that could be disturbed",
        "keys": "a disturbed token changes keys and no row",
        "rows": "a disturbed token changes its row, and its key comes from elsewhere (an earlier layer, a cache, parameters)",
    }[finding.verdict]
    rows, columns = scores.shape[-2:]
    if columns >= rows and math.prod(scores.shape[:-1]) == record.diagonal.numel():
        error = _nearest(record, finding.seen.weights)
        return _row(record, "could not tell", error, f"{why}; compared as queries by keys", seen)
    return _row(record, "could not tell", _NOTHING, why, seen)


def _nearest(record: DiagonalRecord, weights: Tensor) -> float:
    """Difference from the nearest diagonal that holds a key of each query; blocks of queries may belong to the batch or the heads."""
    batch, heads, q_len = record.diagonal.shape
    errors = []
    for offset in range(weights.shape[-1] - weights.shape[-2] + 1):
        own = weights.diagonal(offset, -2, -1)[..., : weights.shape[-2]]
        errors.append(_error(record.diagonal, own.reshape(record.diagonal.shape)))
        if own.ndim == 4 and own.shape[1] == heads:  # [texts, heads, blocks, queries]
            errors.append(_error(record.diagonal, own.transpose(1, 2).reshape(batch, heads, q_len)))
    return min(errors)


def _padding_fault(record: DiagonalRecord, finding: Finding, masks: list[Tensor]) -> str | None:
    """A real query without a number, or padding with one."""
    arrangement, seen = finding.arrangement, finding.seen
    assert arrangement is not None
    assert seen.scores is not None
    shape = tuple(record.diagonal.shape)
    own_visible = _fitted(arrangement.own(seen.visible.double()), shape)
    best = _fitted(arrangement.by_row(seen.scores.amax(-1)), shape)
    if own_visible is None or best is None:
        return None
    nan = record.diagonal.isnan().to(own_visible.device)
    answers = _answers(finding, shape)
    hidden, blind = own_visible < 0.5, best < NEVER_A_SCORE
    padding = blind | (hidden & (answers == 0.0))
    if bool(padding.all()) or bool(hidden.all()):
        return None  # no token sees itself: there is nothing to tell padding by
    if bool((padding & ~nan).any()):
        text, _, query = (padding & ~nan).nonzero()[0].tolist()
        return f"token {query} of text {text} is padding, its key is hidden from every query, and has a number"
    allowed = padding | hidden | (answers <= 1.0) | _masked(masks, shape, padding.device)
    if bool((nan & ~allowed).any()):
        text, _, query = (nan & ~allowed).nonzero()[0].tolist()
        return f"token {query} of text {text} sees itself and is seen, and has no number"
    return None


def _answers(finding: Finding, shape: tuple[int, ...]) -> Tensor:
    """How many queries see the own key of each query; 1 in a band, where keys have no number of their own."""
    arrangement, visible = finding.arrangement, finding.seen.visible
    assert arrangement is not None
    if arrangement.banded:
        return torch.ones(shape, device=visible.device)
    counted = _fitted(arrangement.own(visible.double().sum(arrangement.row_axis, keepdim=True).expand_as(visible)), shape)
    return torch.ones(shape, device=visible.device) if counted is None else counted


def _masked(masks: list[Tensor], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Queries hidden by a mask among the inputs of the model."""
    found = torch.zeros(shape, dtype=torch.bool, device=device)
    for mask in masks:
        if tuple(mask.shape) == (shape[0], shape[2]):
            found |= (mask == 0).to(device)[:, None, :]
    return found


def _without_record(attention: Seen, finding: Finding | None, captured: Captured) -> LayerCheck | None:
    """An attention without a record; None if it is not attention among tokens (a router, a gate) and nothing says it is."""
    skipped = next((name for name, _ in attention.modules if name in captured.skipped), None)
    verdict = "untouched" if finding is None else finding.verdict
    if skipped is not None:
        reason = captured.skipped[skipped]
        if verdict == "self":
            assert finding is not None
            return LayerCheck(skipped, "differs", _NOTHING, f"{_disturbed(finding)}, and it is skipped: {reason}", None, attention.operator)
        one_for_all = attention.shape[-1] == 1 < attention.shape[-2]
        if verdict in ("shared", "apart", "rows", "keys") or one_for_all:
            return LayerCheck(skipped, "verified", _NOTHING, f"no own key: {reason}", None, attention.operator)
        return LayerCheck(skipped, "could not tell", _NOTHING, f"skipped: {reason}", None, attention.operator)
    if verdict != "self":
        return None
    assert finding is not None
    layer = finding.module
    for name, _ in attention.modules:
        if (said := captured.said_about(name)) is not None:
            return LayerCheck(name, "could not tell", _NOTHING, f"the capture says: {said}", None, attention.operator)
    return LayerCheck(layer, "differs", _NOTHING, f"{_disturbed(finding)}, and there is no record of it", None, attention.operator)


def _idle(name: str, captured: Captured, seen: list[Seen]) -> LayerCheck:
    ran = any(attention.call_of(name) is not None for attention in seen)
    status: Status = "could not tell" if ran else "verified"
    return LayerCheck(name, status, _NOTHING, f"no softmax ran in it: {captured.skipped[name]}" if not ran else captured.skipped[name])


def _row(record: DiagonalRecord, status: Status, error: float, evidence: str, seen: Seen | None = None) -> LayerCheck:
    operator = record.operator if seen is None else seen.operator
    layer = f"call:{record.layer_index}" if record.layer is None else record.layer
    return LayerCheck(layer, status, error, evidence, tuple(record.diagonal.shape), operator)
