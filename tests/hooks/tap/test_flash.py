"""FlashAttention's operators, by stand-ins on the CPU that follow the package's schemas: dense, packed, and what a version may change."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.library import Library

import attviz
from attviz.calls import packed as packed_calls
from attviz.calls import trust
from attviz.errors import CaptureError, CaptureWarning
from attviz.hooks.tap.operators import flash

DENSE = (
    "_flash_attn_forward(Tensor q, Tensor k, Tensor v, float dropout_p, float softmax_scale, bool causal, int window_size_left, "
    "int window_size_right, float softcap, Tensor? alibi_slopes, bool return_softmax) -> (Tensor, Tensor)"
)
PACKED = (
    "_flash_attn_varlen_forward(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens_q, Tensor cu_seqlens_k, int max_seqlen_q, "
    "int max_seqlen_k, float dropout_p, float softmax_scale, bool causal, int window_size_left=-1, int window_size_right=-1, "
    "float softcap=0.0, Tensor? alibi_slopes=None, bool return_softmax=False, Tensor? block_table=None) -> (Tensor, Tensor)"
)


def scores_of(query, key, scale, causal, left, right, softcap, slopes):
    """Masked float64 scores of one text, ``[num_heads, q_len, kv_len]``, as the flash-attn README defines them."""
    groups = query.shape[1] // key.shape[1]
    scores = torch.einsum("qhd,khd->hqk", query.double(), key.repeat_interleave(groups, 1).double()) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    distance = torch.arange(key.shape[0])[None] - (torch.arange(query.shape[0]) + key.shape[0] - query.shape[0])[:, None]
    if slopes is not None:
        scores = scores - slopes.double()[:, None, None] * distance.abs()
    hidden = (distance > 0) & causal
    hidden |= (distance < -left) & (left >= 0)
    hidden |= (distance > right) & (right >= 0)
    return scores.masked_fill(hidden, -torch.inf)


def one_text(query, key, value, *rules):
    scores = scores_of(query, key, *rules)
    weights = scores.softmax(-1)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], 1).double()
    output = torch.einsum("hqk,khd->qhd", weights, value).to(query.dtype)
    return output, scores.logsumexp(-1).float(), weights


def dense(q, k, v, dropout_p, scale, causal, left, right, softcap, slopes, return_softmax):
    texts = [one_text(*parts, scale, causal, left, right, softcap, slopes) for parts in zip(q, k, v, strict=True)]
    return torch.stack([text[0] for text in texts]), torch.stack([text[1] for text in texts])


def packed(q, k, v, cu_q, cu_k, max_q, max_k, p, scale, causal, left=-1, right=-1, softcap=0.0, slopes=None, rs=False, block_table=None):
    bounds = zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True)
    texts = [one_text(q[a:b], k[c:d], v[c:d], scale, causal, left, right, softcap, slopes) for a, b, c, d in bounds]
    behind = len(q) - int(cu_q[-1])  # rows of no text: the kernel leaves there whatever there was
    output, lse = q.new_full((behind, *q.shape[1:]), torch.nan), torch.full((q.shape[1], behind), torch.nan)
    return torch.cat([*(text[0] for text in texts), output]), torch.cat([*(text[1] for text in texts), lse], -1)


@pytest.fixture(autouse=True)
def package():
    """The operators of flash-attn, as far as the tap sees them; gone again afterwards."""
    library = Library("flash_attn", "FRAGMENT")
    for schema, stand_in in ((DENSE, dense), (PACKED, packed)):
        library.define(schema)
        library.impl(schema.split("(")[0], stand_in, "CPU")
    trust.forget()
    flash._parameters.cache_clear()
    yield library
    library._destroy()
    trust.forget()
    flash._parameters.cache_clear()


RULES = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"causal": True, "left": 2, "right": 0},
    "both sides": {"left": 2, "right": 1},
    "softcap": {"softcap": 1.5},
    "alibi": {"causal": True, "slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
}


class Attention(nn.Module):
    """Two key heads for four query heads, in flash-attn's layout."""

    def __init__(self, causal=False, left=-1, right=-1, softcap=0.0, slopes=None):
        super().__init__()
        self.qkv = nn.Linear(32, 64)
        self.rules = (8**-0.5, causal, left, right, softcap, slopes)

    def split(self, x):
        return self.qkv(x).unflatten(-1, (8, 8)).split([4, 2, 2], -2)

    def forward(self, x, cu_seqlens=None):
        query, key, value = self.split(x)
        if cu_seqlens is None:
            return torch.ops.flash_attn._flash_attn_forward(query, key, value, 0.0, *self.rules, False)[0]
        length = int(cu_seqlens.diff().max())
        bounds = (cu_seqlens, cu_seqlens, length, length)
        return torch.ops.flash_attn._flash_attn_varlen_forward(query, key, value, *bounds, 0.0, *self.rules)[0]

    def truth(self, text):
        query, key, value = self.split(text)
        return one_text(query, key, value, *self.rules)[2].diagonal(0, -2, -1)


@pytest.mark.parametrize("rules", RULES)
def test_dense(rules):
    model, x = Attention(**RULES[rules]), torch.randn(2, 7, 32)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x)
    with torch.no_grad():
        truth = torch.stack([model.truth(text) for text in x])
    torch.testing.assert_close(cap.diagonal[0].double(), truth, rtol=0, atol=1e-6)
    assert cap.records[0].operator == "flash_attn::_flash_attn_forward"


@pytest.mark.parametrize("rules", RULES)
def test_packed_texts_each_get_their_own_diagonal(rules):
    model, bounds = Attention(**RULES[rules]), torch.tensor([0, 4, 5, 11], dtype=torch.int32)
    x = torch.randn(11, 32)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x, bounds)
    with torch.no_grad():
        truth = torch.cat([model.truth(x[a:b]) for a, b in itertools.pairwise(bounds)], -1)
    assert cap.diagonal.shape == (1, 1, 4, 11)
    torch.testing.assert_close(cap.diagonal[0, 0].double(), truth, rtol=0, atol=1e-6)


class Unpadding(nn.Module):
    """Cuts the padding out before its attention, as transformers does for FlashAttention."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Embedding(99, 32), Attention(causal=True)

    def forward(self, input_ids, attention_mask):
        kept = attention_mask.bool()
        bounds = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0)).int()
        return self.attention(self.embed(input_ids)[kept], bounds)


def test_padding_that_was_cut_out_comes_back_as_missing_values():
    model, ids = Unpadding(), torch.randint(0, 99, (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    with torch.no_grad(), attviz.capture(model) as cap:
        model(ids, mask)
    assert cap.diagonal.shape == (1, 2, 4, 6)
    assert cap.diagonal[0, 1, :, :2].isnan().all()
    assert torch.equal(cap.token_ids, ids)
    with torch.no_grad():
        for row, start in ((0, 0), (1, 2)):
            truth = model.attention.truth(model.embed(ids[row, start:]))
            torch.testing.assert_close(cap.diagonal[0, row, :, start:].double(), truth, rtol=0, atol=1e-6)


def test_wrong_logsumexp_is_found_out(package, monkeypatch):
    monkeypatch.setattr(packed_calls, "rows_of_logsumexp", lambda lse, *sizes: lse + 0.6931)
    model, x = Attention(causal=True), torch.randn(2, 7, 32)
    with pytest.warns(CaptureWarning, match="flash_attn::_flash_attn_forward returned"), torch.no_grad(), attviz.capture(model) as cap:
        model(x)
    with torch.no_grad():
        truth = torch.stack([model.truth(text) for text in x])
    torch.testing.assert_close(cap.diagonal[0].double(), truth, rtol=0, atol=1e-6)
    with warnings.catch_warnings(), torch.no_grad(), attviz.capture(model):
        warnings.simplefilter("error")
        model(x)


def test_paged_keys_are_skipped_with_the_reason():
    class Paged(Attention):
        def forward(self, x, bounds):
            query, key, value = self.split(x)
            return torch.ops.flash_attn._flash_attn_varlen_forward(
                query, key, value, bounds, bounds, 4, 4, 0.0, *self.rules, False, torch.zeros(1, 1, dtype=torch.int32)
            )[0]

    model = Paged()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(torch.randn(4, 32), torch.tensor([0, 4], dtype=torch.int32))
    assert not cap.records
    assert "paged" in cap.skipped[""]


def test_schema_that_lost_an_argument_is_loud(package):
    package.define("other(Tensor queries, Tensor keys) -> Tensor")
    with pytest.raises(CaptureError, match=r"flash_attn::other: its schema has no query or q but \('queries', 'keys'\)"):
        flash._parameters("flash_attn::other")


def test_torchs_own_schemas_are_known():
    for name in flash._NAMES[:2]:
        if hasattr(torch.ops.aten, name.split("::")[1]):
            assert {"query", "key", "is_causal"} <= set(flash._parameters(name))
