"""Runs one family on its attention paths and says whether every attention has a right record, by ``attviz.check``."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig
from transformers.integrations.flex_attention import WrappedFlexAttention

import attviz
from attviz.checking import LayerCheck
from attviz.checking.watch import watching
from benchmarks.families.inputs import guesses
from benchmarks.families.overrides import MODELS
from benchmarks.families.tiny import Mode, tiny_config
from benchmarks.families.unbuilt import REASONS

_MAX_PARAMETERS, _MAX_SHALLOW = 40_000_000, 150_000_000
_MODES: tuple[Mode, ...] = ("small", "filled", "shallow")


@dataclass
class Outcome:
    """What became of one family on one path.

    Attributes:
        family: Its name in the registry of transformers.
        path: "sdpa", "eager", "flex_attention"; with the dtype behind it where that is not float32.
        verdict: right, wrong, crashed, unsure (the evidence does not reach), refused (said aloud), none (nothing attends), unbuilt.
        error: Largest difference of a weight from the float64 reference.
        rows: The table of ``attviz.check``.
        note: Why, where it is not right.
    """

    family: str
    path: str
    verdict: str
    error: float = float("nan")
    rows: tuple[LayerCheck, ...] = ()
    note: str = ""

    @property
    def recorded(self) -> tuple[LayerCheck, ...]:
        """Attentions with a diagonal."""
        return tuple(row for row in self.rows if row.shape is not None)

    @property
    def skipped(self) -> dict[str, str]:
        """Attentions without one, and why."""
        return {row.layer: row.evidence for row in self.rows if row.shape is None}


class Unbuilt(Exception):
    """No tiny model of this family could be built and run on its own; says nothing about the capture."""


def check_family(family: str, *, flex: bool = False, half: bool = False) -> list[Outcome]:
    """Every path of one family.

    Args:
        family: Its name in the registry of transformers.
        flex: flex_attention too, if the model runs with it on the CPU.
        half: bfloat16 too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, inputs = prepare(family)
        except Unbuilt as error:
            return [Outcome(family, "", "unbuilt", note=REASONS.get(family, str(error)))]
        also = ["flex_attention"] if flex and runs_flex(model, inputs) else []
        found = [check_path(family, path, model, inputs) for path in (*paths(model), *also)]
        if half:
            inputs = cast(inputs, torch.bfloat16)
            found += [check_path(family, paths(model)[0], model.to(torch.bfloat16), inputs)] if _runs_half(model, inputs) else []
        return found


def prepare(family: str) -> tuple[nn.Module, dict[str, Any]]:
    """A tiny model of the family and inputs that it runs with.

    Raises:
        Unbuilt: With the reason.
    """
    failures = []
    for mode in _MODES:
        try:
            return _prepare(family, mode)
        except Unbuilt as error:
            if mode != "filled" or "NoneType" in str(failures[0]):
                failures.append(error)
    raise failures[0]


def _prepare(family: str, mode: Mode) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    try:
        config = tiny_config(family, mode)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in _built(family, config).parameters())
    except Exception as error:
        raise Unbuilt(f"config: {_said_by(error)}") from error
    if size > (_MAX_SHALLOW if mode == "shallow" else _MAX_PARAMETERS):
        raise Unbuilt(f"config: {size} parameters")
    try:
        model = _built(family, config, attn_implementation="eager").eval()
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # grouped matrix products exist in half precision and float32 only
    except Exception as error:
        raise Unbuilt(f"model: {_said_by(error)}") from error
    failures = []
    stirred = copy.deepcopy(model)
    _stir(stirred)
    for candidate in (stirred, model):
        for inputs in guesses(candidate):
            try:
                if _sound(candidate, inputs):
                    return candidate, inputs
                failures.append("its own eager forward gives NaN")
            except Exception as error:
                failures.append(f"{sorted(inputs)}: {_said_by(error)}")
    raise Unbuilt("inputs: " + (failures[0] if failures else "none known"))


def _built(family: str, config: PretrainedConfig, **more: Any) -> nn.Module:
    """The model that the registry has for a family; one of another class where that one has no forward or is not the configuration's."""
    if family not in MODELS:
        return AutoModel.from_config(config, **more)  # type: ignore[no-any-return]
    name, part = MODELS[family]
    return getattr(transformers, name)._from_config(getattr(config, part) if part else config, **more)  # type: ignore[no-any-return]


def _said_by(error: Exception) -> str:
    """Kind and text of an error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _sound(model: nn.Module, inputs: dict[str, Any]) -> bool:
    """Whether the forward runs, and no attention in it is NaN."""
    with torch.no_grad(), watching(model) as seen:
        seeded(model, inputs)
    return not any(bool(attention.scores.isnan().any()) for attention in seen if attention.scores is not None)


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
    """The implementations that transformers offers the model and all of its parts (a convolutional backbone has no sdpa)."""
    if not getattr(model, "_supports_sdpa", False):
        return ["eager"]
    try:
        model.set_attn_implementation("sdpa")
    except ValueError:
        model.set_attn_implementation("eager")
        return ["eager"]
    return ["sdpa", "eager"]


def runs_flex(model: nn.Module, inputs: dict[str, Any]) -> bool:
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


def _runs_half(model: nn.Module, inputs: dict[str, Any]) -> bool:
    """Whether the model itself runs in bfloat16 on the CPU."""
    try:
        return _sound(copy.deepcopy(model).to(torch.bfloat16), inputs)
    except Exception:
        return False


def _first_text(output: Any) -> Tensor:
    """What the model makes of the first text, which has no padding."""
    hidden = next(iter(output.values())) if isinstance(output, dict) else output[0]
    assert isinstance(hidden, Tensor)
    return hidden[0]


def check_path(family: str, path: str, model: nn.Module, inputs: dict[str, Any]) -> Outcome:
    """One path of a model that is built."""
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    name = path if dtype is torch.float32 else f"{path} {str(dtype).removeprefix('torch.')}"
    try:
        model.set_attn_implementation(path)
    except Exception as error:
        return Outcome(family, name, "unbuilt", note=f"{type(error).__name__}: {error}")
    torch.manual_seed(1)
    try:
        # flex_attention uncompiled: the same function with the same arguments, without a minute of compilation for each family
        with torch.compiler.set_stance("force_eager"):
            check = attviz.check(model, **inputs)
    except Exception as error:
        return Outcome(family, name, "crashed", note=f"{_said_by(error)}")
    return outcome_of(family, name, check)


def outcome_of(family: str, path: str, check: attviz.Check) -> Outcome:
    """What a check says of a family on a path."""
    rows = check.layers
    errors = [row.error for row in rows if row.shape is not None]
    outcome = Outcome(family, path, "right", max(errors, default=float("nan")), rows)
    wrong, unsure = check.of("differs"), check.of("could not tell")
    if not check.outputs_identical:
        outcome.verdict, outcome.note = "wrong", "its outputs change under the capture"
    elif wrong:
        outcome.verdict, outcome.note = "wrong", _said(wrong)
    elif check.warnings:
        outcome.verdict, outcome.note = "refused", _refusal(check.warnings[0])
    elif unsure:
        outcome.verdict, outcome.note = "unsure", _said(unsure)
    elif not outcome.recorded:
        outcome.verdict, outcome.note = "none", "; ".join(sorted({row.evidence for row in rows}))
    return outcome


def _refusal(warning: str) -> str:
    """What a capture gives as its reason, without what it says of the model and of the cure."""
    text = " ".join(warning.split()).partition(" Cure:")[0]
    for head in ("Why: ", "so nothing was recorded there. "):
        text = text.partition(head)[2] or text
    return text[:400]


def _said(rows: tuple[LayerCheck, ...]) -> str:
    error = "" if rows[0].error != rows[0].error else f" (off by {rows[0].error:.0e})"
    more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
    return f"{rows[0].layer}{error}: {rows[0].evidence}{more}"
