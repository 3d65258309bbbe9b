"""Readings of a sample of the families of transformers, each compared with the weights its operators were asked for, in float64.

All families: ``python -m benchmarks.readings_sweep``.
"""

from __future__ import annotations

import logging

import pytest
import torch

import attviz
from attviz import readings as r
from benchmarks.families.check import prepare
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch 2.9, about how transformers makes a mask in compiled code
@pytest.mark.parametrize("family", sorted({"gpt_oss", "inkling2_text"} & set(families())))
def test_compiled_families_with_sinks_read_what_they_read_uncompiled(family):
    """Before anybody saw the model uncompiled: the graph that was compiled shows its sinks, and whose softmax is whose."""
    model, inputs = prepare(family)
    model.set_attn_implementation("eager")
    compiled = torch.compile(model, backend="aot_eager")
    read = [r.Offset(-1), r.Rows(-1), r.RowEntropy(), r.Received()]
    with torch.no_grad():
        with attviz.capture(compiled, read=read) as cap:
            compiled(**inputs)
        with attviz.capture(model, read=read) as truth:
            model(**inputs)
    torch._dynamo.reset()
    assert cap.layers == truth.layers == ("layers.0.self_attn", "layers.1.self_attn")
    assert set(cap.skipped) <= set(truth.skipped)
    for record, other in zip(cap.records, truth.records, strict=True):
        torch.testing.assert_close(record.diagonal, other.diagonal, rtol=0, atol=1e-6, equal_nan=True)
        assert set(record.readings) == set(other.readings)
        for name, want in other.readings.items():
            torch.testing.assert_close(record.readings[name], want, rtol=0, atol=1e-5, equal_nan=True)


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
    assert found[0].note.count(f"{name} is off by") == found[0].layers == 2


def test_the_note_names_every_wrong_reading(monkeypatch):
    for reading in (r.Received, r.Rows):
        right = reading.read
        monkeypatch.setattr(reading, "read", lambda self, call, tokens, right=right: right(self, call, tokens).roll(1, 1))
    note = read_family("bert")[0].note
    assert [part.split(" is off")[0].split(": ")[-1] for part in note.replace("; ", ", ").split(", ")] == ["rows(-1)", "received"] * 2
