"""Softmaxes that are no matrix of queries by keys, and models of the user's own that have such a one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    BigBirdConfig,
    BigBirdModel,
    FunnelConfig,
    FunnelModel,
    LEDConfig,
    LEDModel,
    LongformerConfig,
    LongformerModel,
    NystromformerConfig,
    NystromformerModel,
)

import attviz
from attviz.calls import FusedCall, SoftmaxCall
from attviz.calls.layouts import WeightLayout, register_layout, unregister_layout


def longformer(window: int = 8) -> nn.Module:
    config = LongformerConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, attention_window=[window, window]
    )
    return LongformerModel(config).eval()


def test_banded_attention_is_the_full_one_where_the_window_holds_the_text():
    """A window wider than the text leaves nothing out, so every row sums over all keys: the diagonal can be formed by hand."""
    model, ids = longformer(16), torch.randint(5, 99, (2, 7))
    with torch.no_grad(), attviz.capture(model) as cap:
        model(ids)
    assert cap.diagonal.shape == (2, 2, 4, 7)  # the model filled its block up to 16; those tokens are gone
    attention = model.encoder.layer[0].attention.self
    with torch.no_grad():
        hidden = model.embeddings(ids)
        query, key = (linear(hidden).unflatten(-1, (4, 8)).transpose(1, 2).double() for linear in (attention.query, attention.key))
        truth = (query @ key.mT * 8**-0.5).softmax(-1).diagonal(0, -2, -1)
    torch.testing.assert_close(cap.diagonal[0].double(), truth, rtol=0, atol=1e-6)


def test_global_tokens_are_skipped_with_the_reason():
    model, ids = longformer(), torch.randint(5, 99, (1, 8))
    everywhere = torch.zeros_like(ids)
    everywhere[:, 0] = 1
    with torch.no_grad(), attviz.capture(model) as cap:
        model(ids, global_attention_mask=everywhere)
    assert not cap.records
    assert set(cap.skipped) == {"encoder.layer.0.attention.self", "encoder.layer.1.attention.self"}
    assert "second softmax" in cap.skipped["encoder.layer.0.attention.self"]


SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}


def test_global_tokens_of_led_are_skipped_and_its_decoder_is_not():
    config = LEDConfig(
        vocab_size=99, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=40, decoder_ffn_dim=40, attention_window=[8], max_encoder_position_embeddings=64,
    )  # fmt: skip
    model, ids = LEDModel(config).eval(), torch.randint(5, 99, (2, 16))
    everywhere = torch.zeros_like(ids)
    everywhere[:, 0] = everywhere[0, 5] = 1
    with torch.no_grad(), attviz.capture(model) as cap:
        model(ids, global_attention_mask=everywhere, decoder_input_ids=ids[:, :5])
    assert cap.layers == ("decoder.layers.0.self_attn",)
    assert "second softmax" in cap.skipped["encoder.layers.0.self_attn.longformer_self_attn"]


@pytest.mark.parametrize("block_sizes", [[1, 1], [2, 2], [1, 1, 1]])
def test_pooled_layers_of_funnel_are_skipped_with_the_reason(block_sizes):
    config = FunnelConfig(vocab_size=99, block_sizes=block_sizes, num_decoder_layers=1, d_model=32, n_head=4, d_head=8, d_inner=40)
    model, ids = FunnelModel(config).eval(), torch.randint(5, 99, (2, 24))
    with torch.no_grad(), attviz.capture(model) as cap:
        weights = model(ids, output_attentions=True).attentions
    whole = [f"encoder.blocks.0.{place}.attention" for place in range(block_sizes[0])]
    assert cap.layers == (*whole, "decoder.layers.0.attention")
    expected = torch.stack([layer.diagonal(0, -2, -1) for layer in (*weights[: block_sizes[0]], weights[-1])])
    torch.testing.assert_close(cap.diagonal, expected, rtol=0, atol=1e-6)
    pooled = {f"encoder.blocks.{block}.{place}.attention" for block, size in enumerate(block_sizes) if block for place in range(size)}
    assert set(cap.skipped) == pooled
    assert all(reason.startswith("pooled: each query stands for several tokens") for reason in cap.skipped.values())


@pytest.mark.parametrize(("landmarks", "length"), [(8, 24), (8, 64), (16, 16)])
def test_nystromformer_is_read_only_where_it_is_exact(landmarks, length):
    config = NystromformerConfig(**SIZES, num_landmarks=landmarks, segment_means_seq_len=length, max_position_embeddings=128)
    model, ids = NystromformerModel(config).eval(), torch.randint(5, 99, (2, length))
    with torch.no_grad(), attviz.capture(model) as cap:
        weights = model(ids, output_attentions=True).attentions
    if landmarks == length:
        torch.testing.assert_close(cap.diagonal, torch.stack([layer.diagonal(0, -2, -1) for layer in weights]), rtol=0, atol=1e-6)
    else:
        assert not cap.records
        assert len(cap.skipped) == 2
        assert all(reason.startswith("Nyström approximation") for reason in cap.skipped.values())


@pytest.mark.parametrize(
    ("kind", "length", "read"), [("original_full", 192, True), ("block_sparse", 24, True), ("block_sparse", 192, False)]
)
def test_sparse_blocks_of_bigbird_are_skipped_and_its_full_attention_is_read(kind, length, read):
    config = BigBirdConfig(**SIZES, max_position_embeddings=256, attention_type=kind, block_size=16, num_random_blocks=2)
    model, ids = BigBirdModel(config, add_pooling_layer=False).eval(), torch.randint(5, 99, (2, length))
    config.attention_type = "original_full"
    full = BigBirdModel(config, add_pooling_layer=False).eval()
    full.load_state_dict(model.state_dict())
    with torch.no_grad(), attviz.capture(model) as cap:
        model(ids)
    if read:  # a short text falls back to full attention, whatever the configuration says
        with torch.no_grad():
            weights = full(ids, output_attentions=True).attentions
        torch.testing.assert_close(cap.diagonal, torch.stack([layer.diagonal(0, -2, -1) for layer in weights]), rtol=0, atol=1e-6)
    else:
        assert not cap.records
        assert all(reason.startswith("block-sparse attention") for reason in cap.skipped.values())


class HeadsLast(nn.Module):
    """Attention of one's own whose softmax is ``[batch, q_len, num_heads, kv_len]``."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        query, key, value = self.qkv(x).unflatten(-1, (3, 2, 4)).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bqhk", query, key) / 2
        return torch.einsum("bqhk,bkhd->bqhd", scores.softmax(-1), value).flatten(2)


def test_layout_of_a_users_own_model():
    model, x = HeadsLast().eval(), torch.randn(2, 5, 8)
    entry = register_layout(WeightLayout(lambda module: isinstance(module, HeadsLast), lambda module, weights: weights.diagonal(0, 1, 3)))
    try:
        with torch.no_grad(), attviz.capture(model, layers="") as cap:
            model(x)
    finally:
        unregister_layout(entry)
    with torch.no_grad():
        query, key, _ = model.qkv(x).unflatten(-1, (3, 2, 4)).unbind(2)
        truth = (torch.einsum("bqhd,bkhd->bhqk", query, key) / 2).softmax(-1).diagonal(0, -2, -1)
    torch.testing.assert_close(cap.diagonal[0], truth)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("by_weights", [True, False])
def test_slot_that_only_the_device_knows(by_weights, trusted):
    """A static cache on a GPU keeps its length in a tensor; reading it must not wait for the device."""
    query, key, past = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 16, 8), torch.tensor(5)
    bias = torch.full((3, 16), -torch.inf).triu(6)
    scores = query @ key.repeat_interleave(2, 1).mT + bias
    truth = scores.softmax(-1).diagonal(5, -2, -1)
    if by_weights:
        call = SoftmaxCall("softmax", scores.softmax(-1), kv_offset=past)
    else:
        call = FusedCall("kernel", query, key, scores.logsumexp(-1) if trusted else None, 1.0, bias, kv_offset=past)
    found = call.defer().finish()
    torch.testing.assert_close(found, truth)
