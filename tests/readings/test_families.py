"""Readings of a sample of the families of transformers, each compared with the weights its operators were asked for, in float64.

All families: ``python -m benchmarks.readings_sweep``.
"""

from __future__ import annotations

import logging

import pytest

from attviz import readings as r
from benchmarks.families.readings import NAMES, read_family
from benchmarks.families.tiny import families

PADDING_OF_THEIR_OWN = "blt grounding-dino informer siglip2_vision_model udop xlnet".split()  # the model's mask is not the operator's
OF_THEIR_OWN_KIND = "deberta-v2 gemma2 gpt_oss inkling2_text muse_glimmer_assistant qwen2_5_vl_vision swin t5 whisper".split()


@pytest.fixture(autouse=True)
def _quiet():
    """transformers warns of every special token that a small vocabulary does not hold."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("family", sorted({*PADDING_OF_THEIR_OWN, *OF_THEIR_OWN_KIND} & set(families())))
def test_every_reading_of_every_layer_is_right(family):
    for read in read_family(family, flex=family in ("t5", "gemma2")):
        assert read.verdict == "right", (read.path, read.note, read.reasons)
        assert set(read.errors) == set(NAMES)
        assert read.layers >= 2


def test_a_layer_that_cannot_give_a_reading_says_why():
    (read,) = read_family("led")
    assert read.verdict == "partly"  # the decoder can be read
    banded = {place for place, why in read.reasons.items() if "its softmax is banded" in why}
    assert banded == {f"encoder.layers.{layer}.self_attn.longformer_self_attn: {name}" for layer in (0, 1) for name in NAMES}


@pytest.mark.parametrize(("reading", "name"), [(r.Received, "received"), (r.Rows, "rows(-1)"), (r.Offset, "offset(-1)")])
def test_the_sweep_can_fail(monkeypatch, reading, name):
    right = reading.read
    monkeypatch.setattr(reading, "read", lambda self, call, tokens: right(self, call, tokens).roll(1, 1))  # of another head
    found = read_family("bert")
    assert [read.verdict for read in found] == ["wrong", "wrong"]
    assert name in found[0].note
