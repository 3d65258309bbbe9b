"""The attention of torch.nn: fast paths and slow ones, with masks and padding."""

import copy

import pytest
import torch
from torch import nn

import attviz

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:enable_nested_tensor is True")

PADDING = torch.arange(9)[None] >= torch.tensor([[9], [6], [1]])
CAUSAL = nn.Transformer.generate_square_subsequent_mask(9)


@torch.no_grad()
def weights(attention: nn.MultiheadAttention, x: torch.Tensor, mask: torch.Tensor | None, padding: torch.Tensor | None) -> torch.Tensor:
    """Dense float64 softmax of one MultiheadAttention: [batch, num_heads, q_len, kv_len]."""
    embed_dim = attention.embed_dim
    rows = nn.functional.linear(x.double(), attention.in_proj_weight.double(), attention.in_proj_bias.double())
    query, key, _ = rows.unflatten(-1, (3, attention.num_heads, -1)).transpose(1, 3).unbind(2)
    scores = query @ key.mT * (embed_dim // attention.num_heads) ** -0.5
    if mask is not None:
        scores = scores + mask.double()
    if padding is not None:
        scores = scores.masked_fill(padding[:, None, None], float("-inf"))
    return scores.softmax(-1)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])  # the fast path, and the slow one
@pytest.mark.parametrize("need_weights", [{}, {"need_weights": False}, {"average_attn_weights": False}])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masks", [{}, {"attn_mask": CAUSAL}, {"key_padding_mask": PADDING}])
def test_multihead_attention(mode, need_weights, batch_first, masks):
    attention = nn.MultiheadAttention(32, 4, batch_first=batch_first).eval()
    x = torch.randn(3, 9, 32)
    given = x if batch_first else x.transpose(0, 1)
    with mode():
        expected = attention(given, given, given, **need_weights, **masks)
        with attviz.capture(attention) as cap:
            actual = attention(given, given, given, **need_weights, **masks)
    for a, b in zip(actual, expected, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    truth = weights(attention, x, masks.get("attn_mask"), masks.get("key_padding_mask")).diagonal(dim1=-2, dim2=-1)
    real = cap.query_mask[:, None, :].expand_as(truth)
    assert torch.equal(cap.query_mask, ~masks.get("key_padding_mask", torch.zeros(3, 9, dtype=torch.bool)))
    torch.testing.assert_close(cap.diagonal[0].double()[real], truth[real], rtol=0, atol=1e-6)
    assert cap.diagonal[0][~real].isnan().all()


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "masks", [{}, {"mask": CAUSAL}, {"src_key_padding_mask": PADDING}, {"src_key_padding_mask": PADDING | (torch.arange(9) > 6)}]
)
def test_transformer_encoder(fast, norm_first, nested, masks):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=nested).eval()
    for block in model.layers:
        nn.init.normal_(block.self_attn.in_proj_weight, std=0.2)
    x = torch.randn(3, 9, 32)
    with torch.inference_mode() if fast else torch.enable_grad():
        expected = model(x, **masks)
        with attviz.capture(model) as cap:
            actual = model(x, **masks)
    assert torch.equal(actual, expected)
    assert cap.layers == tuple(f"layers.{i}.self_attn" for i in range(3))
    padding = masks.get("src_key_padding_mask")
    truth, hidden = [], x.double()
    double = copy.deepcopy(model).double()
    for block in double.layers:
        own = block.norm1(hidden) if norm_first else hidden
        truth.append(weights(block.self_attn, own, masks.get("mask"), padding).diagonal(dim1=-2, dim2=-1))
        hidden = block(hidden, src_mask=None if "mask" not in masks else CAUSAL.double(), src_key_padding_mask=padding)
    reference = torch.stack(truth)
    assert cap.diagonal.shape == reference.shape
    real = cap.query_mask[None, :, None, :].expand_as(reference)
    torch.testing.assert_close(cap.diagonal.double()[real], reference[real], rtol=0, atol=1e-6)
    assert cap.diagonal[~real].isnan().all()


def test_transformer_with_both_halves():
    model = nn.Transformer(32, 4, 2, 2, 64, batch_first=True).eval()
    source, target = torch.randn(2, 7, 32), torch.randn(2, 5, 32)
    expected = model(source, target)
    with attviz.capture(model) as cap:
        actual = model(source, target)
    assert torch.equal(actual, expected)
    assert [record.layer for record in cap.records] == [
        *(f"encoder.layers.{i}.self_attn" for i in range(2)),
        *(f"decoder.layers.{i}.self_attn" for i in range(2)),
    ]
    assert list(cap.skipped) == [f"decoder.layers.{i}.multihead_attn" for i in range(2)]
