"""Runs one family on its attention paths and says whether every recorded diagonal is right."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.integrations.flex_attention import WrappedFlexAttention

import attviz
from attviz.errors import CaptureError
from benchmarks.families.inputs import guesses
from benchmarks.families.overrides import BAND, BLOCK
from benchmarks.families.reference import Reference, run_reference
from benchmarks.families.tiny import HEADS, tiny_config

TOLERANCE = 1e-5
_MAX_PARAMETERS = 7_300_000


@dataclass
class Outcome:
    """What became of one family on one path."""

    family: str
    path: str  # "sdpa", "eager" or "flex_attention"
    verdict: str  # right, wrong, refused, none, unbuilt
    error: float = float("nan")
    layers: int = 0
    operators: tuple[str, ...] = ()
    note: str = ""
    skipped: dict[str, str] = field(default_factory=dict)


class Unbuilt(Exception):
    """No tiny model of this family could be built and run on its own; says nothing about the capture."""


def check_family(family: str, *, flex: bool = False) -> list[Outcome]:
    """Both paths of one family; with ``flex`` flex_attention too, if the model runs with it on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, inputs, reference = prepare(family)
        except Unbuilt as error:
            try:
                if "NoneType" not in str(error):
                    raise
                model, inputs, reference = prepare(family, filled=True)
            except Unbuilt:
                return [Outcome(family, "", "unbuilt", note=str(error))]
        also = ["flex_attention"] if flex and _runs_flex(model, inputs) else []
        return [_settled(check_path(family, path, model, inputs, reference), model, inputs, reference) for path in (*paths(model), *also)]


def _settled(outcome: Outcome, model: nn.Module, inputs: dict[str, Any], reference: Reference) -> Outcome:
    """A small difference is looked at again with the model in float64: random weights may blow up the rounding of float32."""
    if outcome.verdict != "wrong" or not TOLERANCE < outcome.error < 1e-2:
        return outcome
    exact = check_path(outcome.family, outcome.path, copy.deepcopy(model).double(), cast(inputs, torch.float64), reference)
    exact.note = exact.note or f"compared in float64: its float32 forwards differ by {outcome.error:.0e} between paths"
    return exact


def prepare(family: str, filled: bool = False) -> tuple[nn.Module, dict[str, Any], Reference]:
    torch.manual_seed(0)
    try:
        config = tiny_config(family, filled)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    except Exception as error:
        raise Unbuilt(f"config: {type(error).__name__}: {str(error)[:150]}") from error
    if size > _MAX_PARAMETERS:
        raise Unbuilt(f"config: {size} parameters")
    try:
        model = AutoModel.from_config(config, attn_implementation="eager").eval()
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # grouped matrix products exist in half precision and float32 only
    except Exception as error:
        raise Unbuilt(f"model: {type(error).__name__}: {str(error)[:150]}") from error
    failures = []
    stirred = copy.deepcopy(model)
    _stir(stirred)
    for candidate in (stirred, model):
        for inputs in guesses(candidate):
            try:
                with torch.no_grad():
                    seeded(candidate, inputs)
            except Exception as error:
                failures.append(f"{sorted(inputs)}: {type(error).__name__}: {str(error)[:120]}")
                continue
            reference = _reference(candidate, inputs)
            if reference is not None:
                return candidate, inputs, reference
            failures.append("its own eager forward gives NaN, or no softmax to compare with")
    raise Unbuilt("inputs: " + (failures[0] if failures else "none known"))


def _reference(model: nn.Module, inputs: dict[str, Any]) -> Reference | None:
    """In float64; in float32 where the model cannot run in float64, overflows there, or draws other random numbers."""
    for dtype in (torch.float64, torch.float32):
        try:
            reference = run_reference(copy.deepcopy(model).to(dtype), cast(inputs, dtype))
        except Exception:  # a kernel without float64
            continue
        if not any(bool(seen.weights.isnan().any()) for seen in reference.seen) and _agrees(model, inputs, reference):
            return reference
    return None


def _agrees(model: nn.Module, inputs: dict[str, Any], reference: Reference) -> bool:
    """Whether the float32 model, run again, passes the same softmaxes: else it draws random numbers of another dtype."""
    again = run_reference(model, inputs)
    pairs = zip(reference.seen, again.seen, strict=False)
    return len(reference.seen) == len(again.seen) and all(
        one.weights.shape == other.weights.shape and float((one.weights - other.weights).abs().max()) < 1e-3 for one, other in pairs
    )


def seeded(model: nn.Module, inputs: dict[str, Any]) -> Any:
    """A forward that draws the same random numbers each time (masked autoencoders choose patches)."""
    torch.manual_seed(1)
    return model(**inputs)


def _stir(model: nn.Module) -> None:
    """Weights large enough that attention is far from uniform, so that a wrong layer or head shows."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, 1.2 * module.in_features**-0.5)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, 1.0)


def cast(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value for name, value in inputs.items()}


def paths(model: nn.Module) -> list[str]:
    return ["sdpa", "eager"] if getattr(model, "_supports_sdpa", False) else ["eager"]


def _runs_flex(model: nn.Module, inputs: dict[str, Any]) -> bool:
    """Whether transformers itself runs the model with flex_attention here, and right: doge's own flex function loses the mask."""
    model = copy.deepcopy(model)
    outputs = []
    hand_out = WrappedFlexAttention.__call__
    with mock.patch.object(WrappedFlexAttention, "__call__", autospec=True, side_effect=hand_out) as called:
        for path in ("eager", "flex_attention"):
            try:
                model.set_attn_implementation(path)
                with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                    outputs.append(_first_text(seeded(model, inputs)))
            except Exception:  # not supported by the family, or not on the CPU (sinks)
                return False
    return called.called and outputs[0].shape == outputs[1].shape and float((outputs[0] - outputs[1]).abs().max()) < 1e-2


def _first_text(output: Any) -> Tensor:
    """What the model makes of the first text, which has no padding."""
    hidden = next(iter(output.values())) if isinstance(output, dict) else output[0]
    assert isinstance(hidden, Tensor)
    return hidden[0]


def check_path(family: str, path: str, model: nn.Module, inputs: dict[str, Any], reference: Reference) -> Outcome:
    try:
        model.set_attn_implementation(path)
    except Exception as error:
        return Outcome(family, path, "unbuilt", note=f"{type(error).__name__}: {error}")
    try:
        # flex_attention uncompiled: the same function with the same arguments, without a minute of compilation for each family
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), attviz.capture(model) as cap:
            seeded(model, inputs)
    except CaptureError as error:
        return Outcome(family, path, "refused", note=str(error).replace("\n", " ")[:400])
    except Exception as error:
        return Outcome(family, path, "crashed", note=f"{type(error).__name__}: {str(error)[:150]}")
    try:
        records = cap.records
    except CaptureError as error:
        return Outcome(family, path, "refused", note=str(error).replace("\n", " ")[:300])
    operators = tuple(sorted({record.operator for record in records}))
    outcome = Outcome(family, path, "right", 0.0, len(records), operators, skipped=cap.skipped)
    if not records:
        outcome.verdict = "none"
        outcome.note = "; ".join(sorted(set(cap.skipped.values())))
        return outcome
    _compare(outcome, records, reference)
    return outcome


def _compare(outcome: Outcome, records: Any, reference: Reference) -> None:
    used: set[int] = set()
    for record in records:
        place = next(
            (
                place
                for place, seen in enumerate(reference.seen)
                if place not in used and _inside(seen.module, record.layer) and _attends(seen.weights, record.diagonal)
            ),
            None,
        )
        if place is None:
            outcome.verdict, outcome.note = "wrong", f"{record.layer}: no softmax of the reference belongs to a call of it"
            return
        used.add(place)
        read = _diagonal(reference.seen[place].weights)
        assert read is not None
        error = _distance(record.diagonal, read[..., : record.diagonal.shape[-1]])
        outcome.error = max(outcome.error, error)
        if not error <= TOLERANCE:
            outcome.verdict, outcome.note = (
                "wrong",
                f"{record.layer}: off by {error:.1e}, {tuple(record.diagonal.shape)} against {tuple(reference.seen[place].weights.shape)}",
            )
            return
    for number, weights in enumerate(reference.trusted):
        if not any(_distance(record.diagonal, weights.diagonal(0, -2, -1)) <= 1e-4 for record in records):
            outcome.verdict, outcome.note = "wrong", f"the model's own attentions[{number}] {tuple(weights.shape)} is in no record"
            return


def _inside(module: str, layer: str) -> bool:
    return module == layer or module.startswith(layer + ".") or layer == ""


def _attends(weights: Tensor, diagonal: Tensor) -> bool:
    read = _diagonal(weights)
    return read is not None and read.shape[-1] >= diagonal.shape[-1] > read.shape[-1] - BLOCK


def _diagonal(weights: Tensor) -> Tensor | None:
    """Each token's weight on itself, in the layouts that the models of transformers document for their attentions."""
    rows, columns = weights.shape[-2:]
    if columns in (rows, rows + 1):  # a learned sink may stand behind the keys
        return weights.diagonal(0, -2, -1)[..., :rows]
    if weights.ndim == 4 and columns == BAND and rows == HEADS:  # Longformer, LED: [batch, tokens, heads, window]
        return weights[..., BAND // 2].transpose(1, 2)
    if weights.ndim == 5 and rows == BLOCK and columns >= 3 * BLOCK:  # LongT5: [batch, blocks, heads, block, three blocks]
        own = torch.stack([weights[..., row, BLOCK + row] for row in range(BLOCK)], -1)
        return own.transpose(1, 2).flatten(2)
    return None


def _distance(actual: Tensor, expected: Tensor) -> float:
    """Largest difference where the query is no padding; infinite where the sizes differ."""
    actual = actual.double().reshape(-1, actual.shape[-1])
    expected = expected.double().reshape(-1, expected.shape[-1])
    if actual.shape != expected.shape:
        return float("inf")
    real = ~actual.isnan()
    return float((actual - expected)[real].abs().max()) if real.any() else float("inf")
