"""Softmaxes that are no matrix of queries by keys, and models of the user's own that have such a one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LongformerConfig, LongformerModel

import attviz
from attviz.hooks.judge import _gathered
from attviz.hooks.weight_layouts import WeightLayout, register_layout, unregister_layout
from attviz.records import AttentionCall


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
        call = AttentionCall("softmax", weights=scores.softmax(-1))
    else:
        call = AttentionCall("kernel", query, key, scores.logsumexp(-1) if trusted else None, None, 1.0, bias)
    found = attviz.recording.PendingDiagonal(_gathered(call, past), None, "layer", 0, 0).record().diagonal
    torch.testing.assert_close(found, truth)
