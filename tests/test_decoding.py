"""Generation with every cache: each new token's diagonal equals that of a full forward over the finished text."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PretrainedConfig,
    T5Config,
    T5ForConditionalGeneration,
)

import attviz
from attviz.errors import ArgumentError, CaptureError

SIZES = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "grouped": LlamaConfig(**SIZES, num_key_value_heads=2),
    "one-key-head": LlamaConfig(**SIZES, num_key_value_heads=1),
    "window": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=5),
    "mixed": Gemma3TextConfig(**SIZES, num_key_value_heads=2, sliding_window=5, layer_types=["sliding_attention", "full_attention"]),
    "positions": GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0, bos_token_id=1, eos_token_id=None
    ),
}
WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "chunked": {"prefill_chunk_size": 4},
    "no cache": {"use_cache": False},
}
PROMPT, NEW = 6, 8
MAJOR = int(transformers.__version__.split(".")[0])
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"  # renamed in 5.24


def build(config: PretrainedConfig, implementation: str = "sdpa") -> torch.nn.Module:
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 1.0 if "emb" in name or "wte" in name else 1.2 * parameter.shape[-1] ** -0.5)
    return model


def prompt(padded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.randint(10, 98, (2, PROMPT)), torch.ones(2, PROMPT, dtype=torch.long)
    if padded:
        ids[1, :2] = mask[1, :2] = 0
    return ids, mask


def full_forward(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The model's own attentions over the finished text."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    mask = torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])], 1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        outputs = model(ids, attention_mask=mask, position_ids=places, output_attentions=True, use_cache=False)
    model.set_attn_implementation(implementation)
    diagonal = torch.stack([weights.diagonal(0, -2, -1) for weights in outputs.attentions])
    return torch.where(mask[None, :, None].bool(), diagonal, torch.nan)[..., :-1]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_packed_grouped_heads_are_not_queries(length):
    """transformers hands one query of 4 grouped heads over as 4 queries of one head: with 4 keys that looks like self-attention."""
    model = build(CONFIGS["one-key-head"])
    ids = torch.randint(10, 98, (2, length + 1))
    mask = torch.ones_like(ids)
    mask[1, : length // 2] = 0
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        cache = model(ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True)[CACHE]
        model(ids[:, -1:], attention_mask=mask, **{CACHE: cache})
    assert cap.diagonal.shape == (2, 2, 4, 1)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(ids, attention_mask=mask, output_attentions=True).attentions
    torch.testing.assert_close(cap.diagonal[..., 0], torch.stack([weights[:, :, -1, -1] for weights in attentions]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("config", CONFIGS)
def test_generation_equals_a_full_forward(config, way, padded):
    padded = padded and not (way == "chunked" and MAJOR < 5)  # transformers 4.57 counts padding as positions there: another model
    model = build(CONFIGS[config])
    ids, mask = prompt(padded)
    with attviz.capture(model, keep="all") as cap:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, **WAYS[way])
    found = cap.sequence_diagonal()
    assert found.shape == (2, 2, 4, PROMPT + NEW - 1)
    torch.testing.assert_close(found, full_forward(model, out, mask), rtol=0, atol=1e-5, equal_nan=True)
    assert not cap.skipped


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("way", ["greedy", "static"])
@pytest.mark.parametrize("config", ["grouped", "mixed"])
def test_what_a_forward_without_a_cache_showed_does_not_decide_for_one_with_it(config, way, implementation):
    """Evidence is gathered once per model: of a plain forward every key is a query's own, of a static buffer most are not."""
    model = build(CONFIGS[config], implementation)
    ids, mask = prompt(padded=True)
    with torch.no_grad(), attviz.capture(model):
        model(ids, attention_mask=mask, use_cache=False)
    with attviz.capture(model, keep="all") as cap:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, **WAYS[way])
    torch.testing.assert_close(cap.sequence_diagonal(), full_forward(model, out, mask), rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_beam_search_needs_its_beams_and_then_joins(implementation):
    model = build(CONFIGS["grouped"], implementation)
    ids, mask = prompt(padded=True)
    with attviz.capture(model, keep="all") as cap:
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW,
            num_beams=3,
            num_return_sequences=2,
            return_dict_in_generate=True,
            output_scores=True,
        )
    with pytest.raises(ArgumentError, match="beam_indices=outputs.beam_indices"):
        cap.sequence_diagonal()
    found = cap.sequence_diagonal(out.beam_indices)
    expected = full_forward(model, out.sequences, mask.repeat_interleave(2, 0))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, equal_nan=True)


def test_decoder_of_an_encoder_decoder_model_is_joined():
    config = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0, eos_token_id=None)
    model = T5ForConditionalGeneration(config).eval()
    ids, mask = prompt(padded=True)
    with attviz.capture(model, keep="all") as cap:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=5)
    found = cap.sequence_diagonal()
    eager = T5ForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        outputs = eager(input_ids=ids, attention_mask=mask, decoder_input_ids=out[:, :-1], output_attentions=True)
    expected = torch.stack([weights.diagonal(0, -2, -1) for weights in outputs.decoder_attentions])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_rejected_tokens_of_assisted_decoding_are_taken_back():
    model, assistant = build(CONFIGS["grouped"]), build(CONFIGS["one-key-head"])
    ids, mask = torch.randint(10, 98, (1, PROMPT)), torch.ones(1, PROMPT, dtype=torch.long)
    with attviz.capture(model, keep="all") as cap:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, assistant_model=assistant)
    found, expected = cap.sequence_diagonal(), full_forward(model, out, mask)
    shared = min(found.shape[-1], expected.shape[-1])
    torch.testing.assert_close(found[..., :shared], expected[..., :shared], rtol=0, atol=1e-5)


def test_second_prompt_starts_over():
    model = build(CONFIGS["grouped"])
    (first, mask), (second, _) = prompt(False), prompt(False)
    with attviz.capture(model, keep="all") as cap:
        model.generate(first, attention_mask=mask, max_new_tokens=3)
        out = model.generate(second, attention_mask=mask, max_new_tokens=4)
    torch.testing.assert_close(cap.sequence_diagonal(), full_forward(model, out, mask), rtol=0, atol=1e-5)


def test_gap_between_steps_is_refused():
    model = build(CONFIGS["grouped"])
    ids, mask = prompt(False)
    with attviz.capture(model, keep="all", every=2) as cap:
        model.generate(ids, attention_mask=mask, max_new_tokens=5)
    with pytest.raises(CaptureError, match="found 7 tokens in its cache, but only 6 were recorded"):
        cap.sequence_diagonal()
    with attviz.capture(model) as cap:
        model.generate(ids, attention_mask=mask, max_new_tokens=2)
    with pytest.raises(CaptureError, match="keep='all'"):
        cap.sequence_diagonal()


def test_generation_left_half_way_keeps_what_ran():
    model = build(CONFIGS["grouped"])
    ids, mask = prompt(False)

    class Streamer:
        count = 0

        def put(self, value: torch.Tensor) -> None:
            self.count += 1
            if self.count == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), attviz.capture(model, keep="all") as cap:
        model.generate(ids[:1], attention_mask=mask[:1], max_new_tokens=20, streamer=Streamer())
    assert cap.sequence_diagonal().shape == (2, 1, 4, PROMPT + 2)


class CausalCache(torch.nn.Module):
    """A hand-written decoder that asks SDPA for ``is_causal`` over a cache, which torch aligns top left: own keys are hidden."""

    def forward(self, x, past_key_values):
        query, key = x[:, None], torch.cat([past_key_values[0], x[:, None]], 2)
        return torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True)


def test_causal_flag_over_a_cache_hides_the_own_key():
    model = CausalCache()
    with attviz.capture(model, layers="") as cap:
        model(torch.randn(1, 2, 8), past_key_values=(torch.randn(1, 1, 3, 8),))
    assert torch.equal(cap.diagonal, torch.zeros(1, 1, 1, 2))
