"""Pairs in the page: every weight that the browser forms is the model's own, for each way of attending; and the views show them."""

import copy
import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch

import attviz

pytestmark = pytest.mark.browser
TOLERANCE = 0.005


def captured(model, inputs, tokens=None, **more):
    """The page of one forward, as a user makes it."""
    read = [attviz.readings.QueryKey(dtype=more.pop("dtype", torch.float32))]
    with attviz.capture(model, read=read, cross=more.pop("cross", False)) as cap, torch.no_grad():
        model(**inputs)
    return attviz.view(cap, tokens=tokens, **more)


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


def words(count):
    return [f"w{i}" for i in range(count)]


def both(model_class, config, **inputs):
    """The model with fused attention, and what its eager twin attends to."""
    torch.manual_seed(0)
    kind = "sdpa" if model_class._supports_sdpa else "eager"  # T5 of transformers 4.57
    fused = model_class._from_config(copy.deepcopy(config), attn_implementation=kind).eval()
    for module in fused.modules():
        if hasattr(module, "relative_attention_bias"):
            torch.nn.init.normal_(module.relative_attention_bias.weight, std=1.5)
    eager = model_class._from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    eager.load_state_dict(fused.state_dict())
    with torch.no_grad():
        return fused, eager(**inputs, output_attentions=True)


def test_bert_with_padding(show):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, initializer_range=0.6
    )
    inputs = {"input_ids": torch.arange(24).reshape(2, 12), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
    inputs["attention_mask"][1, 9:] = 0
    model, truth = both(BertModel, config, **inputs)
    for dtype in (torch.float32, torch.float16):
        sheet = check(show, captured(model, inputs, dtype=dtype), [weights[0].numpy() for weights in truth.attentions])
        assert ("exact to" in sheet.locator(".card-pairs header .note").inner_text()) == (dtype is torch.float32)
    sheet.keyboard.press("ArrowDown")
    sheet.until("document.querySelector('.card-pairs header .note').textContent.startsWith('9 tokens')")
    real = slice(0, 9)
    found = shown_weights(sheet)
    assert np.abs(found - truth.attentions[1][1][:, real, real].numpy()).max() < TOLERANCE


def test_gpt2(show):
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, initializer_range=0.6)
    inputs = {"input_ids": torch.arange(11)[None]}
    model, truth = both(GPT2Model, config, **inputs)
    check(show, captured(model, inputs, [words(11)]), [weights[0].numpy() for weights in truth.attentions])


def test_llama_with_grouped_heads_and_rotation(show):
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
    check(show, captured(model, inputs, [words(13)]), [weights[0].numpy() for weights in truth.attentions])


def test_t5_with_bias_and_cross_attention(show):
    from transformers import T5Config, T5Model

    config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4, initializer_factor=2.0)
    inputs = {"input_ids": torch.arange(3, 13)[None], "decoder_input_ids": torch.arange(3, 10)[None]}
    model, truth = both(T5Model, config, **inputs)
    page = captured(model, inputs, cross=True)
    expected = [weights[0].numpy() for weights in (*truth.encoder_attentions, *truth.decoder_attentions, *truth.cross_attentions)]
    sheet = check(show, page, expected)
    assert sheet.locator("[aria-label='Kind of attention'] option").all_inner_texts() == ["encoder", "decoder", "cross-attention"]


def test_vit(show):
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
    check(show, captured(model, inputs), [weights[0].numpy() for weights in truth.attentions])


def test_an_eager_model_shows_its_weights(show):
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=4, n_positions=32, initializer_range=0.6)
    inputs = {"input_ids": torch.arange(11)[None]}
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = GPT2Model(config).eval()
    with torch.no_grad():
        truth = model(**inputs, output_attentions=True)
    sheet = check(show, captured(model, inputs), [weights[0].numpy() for weights in truth.attentions])
    assert "weights in 16 bits" in sheet.locator(".card-pairs header .note").inner_text()


def test_minilm(show):
    from attviz.analysis.models import load_model

    model, tokenizer = load_model("all-MiniLM-L6-v2")
    inputs = dict(tokenizer("The old bridge over the river was closed after the storm.", return_tensors="pt"))
    assert model.config._attn_implementation == "sdpa"
    page = captured(model, inputs, tokenizer=tokenizer)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        truth = model(**inputs, output_attentions=True)
    sheet = check(show, page, [weights[0].numpy() for weights in truth.attentions])
    sheet.until("document.querySelectorAll('.pairs-list li').length > 3")
    assert sheet.locator(".pairs-pair").first.inner_text().count("\u2192") == 1
