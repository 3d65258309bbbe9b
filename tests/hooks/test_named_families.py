"""The families every user has: to 1e-6 of a float64 forward, and to 1e-3 in half types, padded on either side."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

import attviz
from benchmarks.families.check import cast, check_path, paths, prepare
from benchmarks.families.reference import Reference, run_reference
from tests.tiny import Rounding

FAMILIES = (
    "bert roberta distilbert albert electra gpt2 gpt_neox opt llama mistral qwen2 qwen3 gemma phi t5 bart vit clip whisper deberta-v2 gptj "
    "bloom gemma2 modernbert"
).split()
UNSCALED = {"t5": 2e-6}  # its logits are not divided by sqrt(head_dim): larger log-sum-exps, and their rounding is part of the kernel


@pytest.fixture(autouse=True)
def _quiet():
    """transformers warns of every special token that a small vocabulary does not hold."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def padded(inputs: dict, side: str) -> dict:
    if side == "right":
        return inputs
    return {**inputs, "attention_mask": inputs["attention_mask"].flip(1)}


def reference(model: torch.nn.Module, inputs: dict) -> Reference:
    """In float64 by the written-out SDPA where there is one: transformers' eager masks are -inf in float64, and padding rows become NaN."""
    exact = copy.deepcopy(model).double()
    if paths(model)[0] == "sdpa":
        exact.set_attn_implementation("sdpa")
    found = run_reference(exact, cast(inputs, torch.float64))
    if any(bool(seen.weights.isnan().any()) for seen in found.seen):
        found = run_reference(model, inputs)
    return found


def sides(inputs: dict) -> tuple[str, ...]:
    """Of padding; an image or a sound has none."""
    return ("right", "left") if "attention_mask" in inputs else ("right",)


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_agrees_with_float64(family):
    model, inputs, _ = prepare(family)
    for side in sides(inputs):
        given = padded(inputs, side)
        truth = reference(model, given)
        for path in paths(model):
            outcome = check_path(family, path, model, given, truth)
            assert outcome.verdict == "right", (side, outcome)
            assert outcome.error <= UNSCALED.get(family, 1e-6), (side, outcome)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_half_types_agree_with_float64_of_the_same_query_and_key(family, dtype):
    model, inputs, _ = prepare(family)
    model = model.to(dtype)
    for path in paths(model):
        model.set_attn_implementation(path)
        for side in sides(inputs):
            metric = Rounding()
            with torch.no_grad(), attviz.capture(model, metrics=metric, keep="none"):
                model(**cast(padded(inputs, side), dtype))
            assert metric.layers >= 2
            assert metric.worst <= 1e-3, (path, side)
