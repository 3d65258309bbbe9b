"""Every family of the installed transformers that can be built tiny: both attention paths against its own float64 eager forward.

The families come from the registry of transformers, in shards so that workers can share them. A family that is not right has to be in one
of the two tables below, with the reason; a new one that is refused makes this fail until somebody has looked at it.
"""

from __future__ import annotations

import logging

import pytest

from benchmarks.families.check import Outcome, check_family
from benchmarks.families.tiny import families

SHARDS = 8
RIGHT_ON_BOTH = 36  # at least, in each shard: 288 in all

# convolutions, pooling, state spaces, Fourier mixing
NO_ATTENTION = set(
    "bit convnext convnextv2 dac dinov3_convnext efficientnet encodec falcon_mamba fnet focalnet hgnet_v2 "
    "mamba mamba2 mobilenet_v1 mobilenet_v2 poolformer regnet resnet sam3_lite_text_text_model textnet univnet xlstm".split()
)
NOT_READ = {
    "inkling2": "its sink is computed, not a parameter: the extra key is not explained",
    "inkling2_text": "the same",
    "mra": "approximates the matrix in blocks, by kernels of its own",
    "reformer": "hashes, and normalises without a softmax operator",
    "rwkv": "weighs tokens without a softmax",
    "yoso": "samples Bernoulli weights, without a softmax",
}


@pytest.fixture(autouse=True)
def _quiet():
    """transformers warns of every special token that a small vocabulary does not hold."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_families_are_right_on_both_paths(shard):
    outcomes = {family: check_family(family) for family in families()[shard::SHARDS]}
    loud = {family for family, found in outcomes.items() if found[0].verdict in ("refused", "none")}
    faults = [outcome for found in outcomes.values() for outcome in found if outcome.verdict not in ("right", "unbuilt", "refused", "none")]
    assert not faults
    assert loud <= NO_ATTENTION | set(NOT_READ), [outcomes[family] for family in loud - NO_ATTENTION - set(NOT_READ)]
    both = [family for family, found in outcomes.items() if len(found) == 2 and all(outcome.verdict == "right" for outcome in found)]
    assert len(both) >= RIGHT_ON_BOTH


SPECIAL = {
    "gpt_oss": "sinks", "longformer": "banded", "convbert": "extra softmaxes", "canine": "characters and molecules", "gemma2": "softcap",
    "bloom": "ALiBi", "t5": "bias", "deberta": "disentangled", "deberta-v2": "disentangled", "albert": "one module for all layers",
    "deepseek_v3": "latent attention", "jamba": "hybrid", "qwen3_next": "hybrid", "swin": "windows", "whisper": "sound",
    "clip": "two towers",
}  # fmt: skip


@pytest.mark.parametrize("family", SPECIAL)
def test_special_case_is_right(family):
    found = check_family(family)
    assert [outcome.verdict for outcome in found] == ["right"] * len(found), found


def test_the_check_itself_tells_a_wrong_layer(monkeypatch):
    """The suite can fail: a capture that gives every layer the first one's values is found out."""
    from attviz._capture import Capture

    right = Capture.records.fget
    assert right is not None

    def first_everywhere(cap):
        records = right(cap)
        return tuple(type(record)(record.layer, record.layer_index, 0, records[0].diagonal, operator=record.operator) for record in records)

    monkeypatch.setattr(Capture, "records", property(first_everywhere))
    found: list[Outcome] = check_family("bert")
    assert [outcome.verdict for outcome in found] == ["wrong", "wrong"]
    assert "encoder.layer.1.attention.self: off by" in found[0].note


def test_encoder_and_decoder_are_recorded_and_cross_attention_is_skipped():
    sdpa, eager = check_family("bart")
    assert sdpa.layers == eager.layers == 4
    assert set(sdpa.skipped) == set(eager.skipped) == {"decoder.layers.0.encoder_attn", "decoder.layers.1.encoder_attn"}
    assert all(reason.startswith("cross-attention") for reason in sdpa.skipped.values())
