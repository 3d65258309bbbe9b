"""Runs one family with readings and compares each with the weights that its operators were asked for, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import attviz
from attviz import readings as r
from attviz.checking.watch import Seen, watching
from attviz.errors import CaptureError
from benchmarks.families.check import Unbuilt, paths, prepare, runs_flex, seeded

NAMES = ("offset(-1)", "rows(-1)", "row_entropy", "received")
_LOOSER = {"row_entropy": 8.0, "received": 8.0}  # sums over a row, or a column, of numbers that are each a rounding off


@dataclass
class Read:
    """What became of the readings of one family on one path.

    Attributes:
        family: Its name in the registry of transformers.
        path: "sdpa", "eager", "flex_attention".
        verdict: right (every layer, every reading), partly (some layers give a reason), refused (no layer can be read), wrong, crashed,
            unbuilt.
        layers: Layers with a record.
        errors: Largest difference of each reading.
        reasons: Why a layer cannot give a reading: ``{"layer: reading": reason}``.
        note: What is wrong: every reading of every layer.
    """

    family: str
    path: str
    verdict: str = "right"
    layers: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    note: str = ""


def read_family(family: str, *, flex: bool = False) -> list[Read]:
    """Every path of one family."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, inputs = prepare(family)
        except Unbuilt as error:
            return [Read(family, "", "unbuilt", note=str(error))]
        also = ["flex_attention"] if flex and runs_flex(model, inputs) else []
        return [read_path(family, path, model, inputs) for path in (*paths(model), *also)]


def read_path(family: str, path: str, model: nn.Module, inputs: dict[str, Any]) -> Read:
    """One path of a model that is built."""
    found = Read(family, path)
    try:
        model.set_attn_implementation(path)
        read = [r.Offset(-1), r.Rows(-1), r.RowEntropy(), r.Received()]
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            with attviz.capture(model, read=read, strict=False) as cap:
                seeded(model, inputs)
            with watching(model) as seen:
                seeded(model, inputs)
        records = cap.records if any(cap.steps) else ()
    except CaptureError as error:
        found.verdict, found.note = "refused", " ".join(str(error).split())[:300]
        return found
    except Exception as error:
        found.verdict, found.note = "crashed", f"{type(error).__name__}: {str(error)[:150]}"
        return found
    used: set[int] = set()
    for record in records:
        _compare(record, seen, used, inputs.get("attention_mask"), found)
    found.layers = len(records)
    if found.verdict == "right" and found.reasons:
        found.verdict = "partly" if found.errors else "refused"
    if not records:
        said = next((why for why in (*cap.skipped.values(), *cap.missed.values()) if why), "")
        unseen = "its attention passes no operator that attviz can see, which is an error of the capture" if cap.missed else ""
        found.verdict, found.note = "refused", said or unseen or "no softmax over tokens runs in it"
    return found


def _compare(record: attviz.records.DiagonalRecord, seen: list[Seen], used: set[int], mask: Tensor | None, found: Read) -> None:
    """One layer: every reading is right or has a reason."""
    layer = str(record.layer)
    silent = [name for name in NAMES if name not in record.readings and name not in record.reasons]
    if silent:
        _call_wrong(found, f"{layer}: no {', '.join(silent)}, and no reason")
        return
    found.reasons |= {f"{layer}: {name}": reason for name, reason in record.reasons.items()}
    if set(NAMES) <= set(record.reasons):
        return
    matched = next(_partners(record, seen, used), None)
    if matched is None:
        found.reasons[f"{layer}: reference"] = "no operator that the reference knows gave this diagonal"
        return
    index, weights, offset = matched
    used.add(index)
    off = []
    for name, want in expected(weights, offset, record.query_mask, mask).items():
        if name not in record.readings:
            continue
        error = _difference(record.readings[name], want)
        found.errors[name] = max(error, found.errors.get(name, 0.0))
        if not error <= seen[index].rounding * _LOOSER.get(name, 1.0):
            off.append(f"{name} is off by {error:.1e}")
    if off:
        _call_wrong(found, f"{layer}: {', '.join(off)}")


def _call_wrong(found: Read, what: str) -> None:
    found.verdict, found.note = "wrong", f"{found.note}; {what}" if found.note else what


def _partners(record: attviz.records.DiagonalRecord, seen: list[Seen], used: set[int]) -> Iterator[tuple[int, Tensor, int]]:
    """Attentions whose diagonal is the record's: index, weights ``[batch, num_heads, q_len, kv_len]``, own key of query 0."""
    batch, heads, q_len = record.diagonal.shape
    for index, attention in enumerate(seen):
        rows = attention.shape
        if index in used or len(rows) < 2 or attention.scores is None or attention.weights.numel() != batch * heads * q_len * rows[-1]:
            continue
        if record.layer is not None and attention.call_of(record.layer) is None and not record.layer.startswith(attention.layer + "."):
            continue
        if rows[-2] != q_len:
            continue
        shaped = attention.weights.reshape(batch, heads, q_len, rows[-1])
        for offset in dict.fromkeys((rows[-1] - q_len, 0)):
            own = shaped.diagonal(offset, -2, -1)
            if own.shape[-1] == q_len and _difference(record.diagonal, own, where_both=True) <= attention.rounding:
                sinks = int(offset == 0 and rows[-1] == q_len + 1)  # a learned sink stands behind the keys
                yield index, shaped[..., : rows[-1] - sinks], offset


def expected(weights: Tensor, offset: int, real: Tensor | None, mask: Tensor | None) -> dict[str, Tensor]:
    """The readings, from the matrix.

    Args:
        weights: ``[batch, num_heads, q_len, kv_len]`` in float64.
        offset: Own key of query 0.
        real: ``[batch, q_len]``, True where the query is no padding.
        mask: The mask that the model was given, which may be one of all keys: those of a context too.
    """
    batch, _, q_len, kv_len = weights.shape
    real = torch.ones(batch, q_len, dtype=torch.bool) if real is None else real
    keys = torch.arange(q_len) + offset - 1
    previous = weights.gather(-1, keys.clamp(min=0)[None, None, :, None].expand(*weights.shape[:3], 1))[..., 0]
    previous = torch.where(keys >= 0, previous, torch.nan)
    last = torch.where(real, torch.arange(q_len), -1).amax(1)
    rows = torch.stack([weights[text, :, int(row)] if row >= 0 else torch.full_like(weights[text, :, 0], torch.nan)
                        for text, row in enumerate(last)])  # fmt: skip
    received = (weights * real[:, None, :, None]).sum(-2)
    padded = torch.zeros(batch, kv_len, dtype=torch.bool)
    if q_len != kv_len and mask is not None and mask.shape == (batch, kv_len):
        padded = ~mask.bool() & (received == 0).all(1)  # what a real query looks at is no padding, whatever the mask says
    else:
        padded[:, offset : offset + q_len] = ~real
    received = torch.where(padded[:, None], torch.nan, received)
    shown = real[:, None]
    return {
        "offset(-1)": torch.where(shown, previous, torch.nan),
        "rows(-1)": rows[:, :, None],
        "row_entropy": torch.where(shown, torch.special.entr(weights).sum(-1), torch.nan),
        "received": received,
    }


def _difference(one: Tensor, other: Tensor, *, where_both: bool = False) -> float:
    """Largest difference; infinite where shapes differ, or only one of them is NaN."""
    if one.shape != other.shape:
        return float("inf")
    there = ~one.isnan(), ~other.isnan()
    if not where_both and bool((there[0] != there[1]).any()):
        return float("inf")
    both = there[0] & there[1]
    return float((one.double() - other)[both].abs().max()) if bool(both.any()) else 0.0
