"""Pairs in the page: every weight that the browser forms is the model's own, for each way of attending; and the views show them."""

import copy
import csv
import io
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attviz.records import Document
from attviz.viewer import view
from attviz.viewer.pairs import PairLayer

pytestmark = pytest.mark.browser
TOLERANCE = 0.005


@contextmanager
def attention_calls(monkeypatch):
    """Query, key, mask, causality and scale of every fused attention."""
    real, seen = F.scaled_dot_product_attention, []

    def fused(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **more):
        mask = attn_mask
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        seen.append((query.detach().clone(), key.detach().clone(), mask, is_causal, factor))
        return real(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
        yield seen


def layer_of(call, name, row=0, queries=slice(None), keys=slice(None), **more):
    query, key, mask, is_causal, scale = call
    bias = None if mask is None else mask.broadcast_to(len(query), *mask.shape[1:])[row].float().numpy()
    if bias is not None:
        bias = np.broadcast_to(bias, (bias.shape[0], query.shape[2], key.shape[2]))[:, queries][:, :, keys]
    return PairLayer(
        name, query[row][:, queries].numpy(), key[row][:, keys].numpy(), scale=scale, bias=bias, is_causal=bool(is_causal), **more
    )


def page_of(layers, tokens, num_heads=4):
    own = np.full((1, num_heads, len(tokens)), 0.5, np.float32)
    return view([Document(" ".join(tokens), tuple(tokens), own)], pairs=[layers])


def shown_weights(sheet):
    """[num_heads, q_len, kv_len] as the page gives them out."""
    with sheet.expect_download() as caught:
        sheet.locator(".card-pairs").get_by_role("button", name="CSV", exact=True).click()
    rows = list(csv.reader(io.StringIO(Path(caught.value.path()).read_text(encoding="utf-8"))))[1:]
    heads = list(dict.fromkeys(row[1] for row in rows))
    return np.array([[float(cell) for cell in row[4:]] for row in rows]).reshape(len(heads), -1, len(rows[0]) - 4)


def check(show, page, references):
    """Each layer of the page in turn, against [num_heads, q_len, kv_len] of the eager model."""
    sheet = show(page, address="tab=pairs")
    kind, layer = (sheet.locator(f".card-pairs [aria-label='{label}']") for label in ("Kind of attention", "Layer"))
    seen = set()
    for group in kind.locator("option").all_inner_texts():
        if kind.is_visible():
            kind.select_option(label=group)
            sheet.settle()
        for place in [option.get_attribute("value") for option in layer.locator("option").all()]:
            layer.select_option(place)
            sheet.settle()
            found, expected = shown_weights(sheet), references[int(place)]
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() < TOLERANCE
            assert expected.max() > 0.3, "weights this even would hide a fault"
            seen.add(int(place))
    assert seen == set(range(len(references)))
    return sheet


def words(count, prefix="w"):
    return [f"{prefix}{i}" for i in range(count)]


def both(model_class, config, **inputs):
    """The model with fused attention, and what its eager twin attends to."""
    torch.manual_seed(0)
    fused = model_class._from_config(copy.deepcopy(config), attn_implementation="sdpa").eval()
    for module in fused.modules():
        if hasattr(module, "relative_attention_bias"):
            torch.nn.init.normal_(module.relative_attention_bias.weight, std=1.5)
    eager = model_class._from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    eager.load_state_dict(fused.state_dict())
    with torch.no_grad():
        return fused, eager(**inputs, output_attentions=True)


def test_bert_with_padding(show, monkeypatch):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, initializer_range=0.6
    )
    inputs = {"input_ids": torch.arange(24).reshape(2, 12), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
    inputs["attention_mask"][1, 9:] = 0
    model, truth = both(BertModel, config, **inputs)
    with attention_calls(monkeypatch) as calls, torch.no_grad():
        model(**inputs)
    real = slice(0, 9)
    layers = [layer_of(call, f"layer.{i}", 1, real, real) for i, call in enumerate(calls)]
    check(show, page_of(layers, words(9)), [weights[1][:, real, real].numpy() for weights in truth.attentions])


def test_gpt2(show, monkeypatch):
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, initializer_range=0.6)
    inputs = {"input_ids": torch.arange(11)[None]}
    model, truth = both(GPT2Model, config, **inputs)
    with attention_calls(monkeypatch) as calls, torch.no_grad():
        model(**inputs)
    layers = [layer_of(call, f"h.{i}") for i, call in enumerate(calls)]
    check(show, page_of(layers, words(11)), [weights[0].numpy() for weights in truth.attentions])


def test_llama_with_grouped_heads_and_rotation(show, monkeypatch):
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
    )
    inputs = {"input_ids": torch.arange(13)[None]}
    model, truth = both(LlamaModel, config, **inputs)
    with attention_calls(monkeypatch) as calls, torch.no_grad():
        model(**inputs)
    layers = [layer_of(call, f"layers.{i}") for i, call in enumerate(calls)]
    check(show, page_of(layers, words(13)), [weights[0].numpy() for weights in truth.attentions])


def test_t5_with_bias_and_cross_attention(show, monkeypatch):
    from transformers import T5Config, T5Model

    config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4, initializer_factor=2.0)
    inputs = {"input_ids": torch.arange(3, 13)[None], "decoder_input_ids": torch.arange(3, 10)[None]}
    model, truth = both(T5Model, config, **inputs)
    with attention_calls(monkeypatch) as calls, torch.no_grad():
        model(**inputs)
    source, target = tuple(words(10, "s")), tuple(words(7, "t"))
    layers = [layer_of(call, f"encoder.{i}") for i, call in enumerate(calls[:2])]
    expected = [weights[0].numpy() for weights in truth.encoder_attentions]
    for i in range(2):
        layers.append(layer_of(calls[2 + 2 * i], f"decoder.{i}", queries=slice(None)))
        layers.append(layer_of(calls[3 + 2 * i], f"decoder.{i}.cross", cross=True))
        expected += [truth.decoder_attentions[i][0].numpy(), truth.cross_attentions[i][0].numpy()]
    named = [
        PairLayer(one.name, one.query, one.key, None, one.scale, one.bias, one.is_causal, one.cross, keys, queries)
        for one, queries, keys in zip(layers, (source,) * 2 + (target,) * 4, (source, source, target, source, target, source), strict=True)
    ]
    sheet = check(show, page_of(named, source), expected)
    assert sheet.locator("[aria-label='Kind of attention'] option").all_inner_texts() == ["encoder", "decoder", "cross-attention"]


def test_vit(show, monkeypatch):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        initializer_range=0.5,
    )
    inputs = {"pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    model, truth = both(ViTModel, config, **inputs)
    with attention_calls(monkeypatch) as calls, torch.no_grad():
        model(**inputs)
    layers = [layer_of(call, f"layer.{i}") for i, call in enumerate(calls)]
    check(show, page_of(layers, ["[CLS]", *words(16, "patch")]), [weights[0].numpy() for weights in truth.attentions])
