"""Readings of a model that is compiled as a whole, and of decode steps over caches that change what they are given."""

from __future__ import annotations

import contextlib

import pytest
import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaModel
from transformers.cache_utils import Cache, QuantizedLayer

import attviz
from attviz import readings as r
from tests.readings.test_readings import SIZES, assert_readings, batch, build, eager_weights, everything, expected
from tests.test_decoding import CACHE


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4.57 does not compile its padding mask on this backend")
def test_a_model_that_is_compiled_as_a_whole_gives_every_reading(training):
    model, (ids, mask) = build("llama"), batch("right")
    truth = expected(eager_weights(model, ids, mask), ids, mask)
    model.set_attn_implementation("sdpa")
    compiled = torch.compile(model, backend="aot_eager")
    with contextlib.nullcontext() if training else torch.no_grad():
        before = compiled(ids, attention_mask=mask).last_hidden_state
        with attviz.capture(compiled, read=everything()) as cap:
            after = compiled(ids, attention_mask=mask).last_hidden_state
    assert torch.equal(before, after)
    assert cap.layers == ("layers.0.self_attn", "layers.1.self_attn")
    assert_readings(cap, truth)


class EightBits(QuantizedLayer):
    """Keys and values in 8 bits: what a query meets later is not what its own key was."""

    def _quantize(self, tensor, axis):
        scale = tensor.abs().amax(-1, keepdim=True).clamp_min(1e-6) / 127
        return (tensor / scale).round().to(torch.int8), scale

    def _dequantize(self, quantized):
        return quantized[0] * quantized[1]


def quantized(model):
    return Cache(layers=[EightBits(residual_length=3) for _ in range(model.config.num_hidden_layers)])


class Stream(contextlib.nullcontext):
    def wait_stream(self, other):
        """There is one."""


def offloaded(model):
    return DynamicCache(config=model.config, offloading=True)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("make", [quantized, offloaded])
def test_the_last_row_of_each_step_is_that_of_the_eager_model_over_the_same_cache(make, padded, monkeypatch):
    if make is offloaded and not torch.cuda.is_available():  # its code runs on any device, but for the second stream
        monkeypatch.setattr(torch, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "default_stream", lambda *args: Stream())
    model = LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()
    ids, mask = batch("left" if padded else None)
    found, want = [], []
    for path in ("eager", "sdpa"):
        model.set_attn_implementation(path)
        cache, given = make(model), {"output_attentions": True} if path == "eager" else {}
        spans = [slice(0, 6), *(slice(place, place + 1) for place in range(6, ids.shape[1]))]
        with torch.no_grad(), attviz.capture(model, keep="all", read=[r.Rows(-1), r.RowEntropy(), r.Received()]) as cap:
            for span in spans:
                out = model(ids[:, span], attention_mask=mask[:, : span.stop], **{CACHE: cache}, **given)
                if path == "eager":
                    want.append([weights.double() for weights in out.attentions])
        found.append(cap.steps)
    for steps in found:
        assert len(steps) == len(want)
        for step, weights in zip(steps, want, strict=True):
            for record, truth in zip(step, weights, strict=True):
                row = record.readings["rows(-1)"][:, :, 0].double()
                torch.testing.assert_close(row, truth[:, :, -1], rtol=0, atol=1e-5)
                entropy = record.readings["row_entropy"][..., -1].double()
                torch.testing.assert_close(entropy, torch.special.entr(truth[:, :, -1]).sum(-1), rtol=0, atol=1e-5)
                torch.testing.assert_close(record.diagonal[..., -1].double(), truth[:, :, -1, -1], rtol=0, atol=1e-5)
