"""The families every user has: every attention against ``attviz.check``, in float32 and half types, padded on either side."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers

from benchmarks.families.check import Unbuilt, cast, check_path, paths, prepare

FAMILIES = (
    "bert roberta distilbert electra gpt2 gpt_neox opt llama mistral qwen2 qwen3 gemma phi t5 bart vit clip whisper deberta-v2 gptj "
    "modernbert"
).split()
UNSCALED = {"t5": 2e-6}  # its logits are not divided by sqrt(head_dim): larger log-sum-exps, and their rounding is part of the kernel


@pytest.fixture(autouse=True)
def _quiet():
    """transformers warns of every special token that a small vocabulary does not hold."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def padded(inputs: dict, side: str) -> dict:
    return inputs if side == "right" else {**inputs, "attention_mask": inputs["attention_mask"].flip(1)}


def sides(inputs: dict) -> tuple[str, ...]:
    """Of padding; an image or a sound has none."""
    return ("right", "left") if "attention_mask" in inputs else ("right",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_attention_is_right(family, dtype):
    """To 1e-6 in float32; in half types to what :attr:`attviz.checking.watch.Seen.rounding` allows, 4e-3 at most."""
    try:
        model, inputs = prepare(family)
    except Unbuilt as error:
        if int(transformers.__version__.split(".")[0]) >= 5:
            raise
        pytest.skip(f"built with newer releases only: {error}")
    model, inputs = model.to(dtype), cast(inputs, dtype)
    chosen = paths(model) if dtype is torch.float32 else paths(model)[-1:]  # eager: its weights are made in the half type
    for path in chosen:
        for side in sides(inputs):
            outcome = check_path(family, path, model, padded(inputs, side))
            assert outcome.verdict == "right", (path, side, outcome.note)
            assert len(outcome.recorded) >= 2
            if dtype is torch.float32:
                assert outcome.error <= UNSCALED.get(family, 1e-6), (path, side, outcome.error)
