"""FlashInfer's wrappers and TransformerEngine's fused attention: stand-ins on the CPU with their signatures compute true attention."""

from __future__ import annotations

import functools
import sys
import types

import pytest
import torch
from torch import nn

import attviz
from attviz.calls import trust
from attviz.hooks.tap import functions
from tests.hooks.tap.test_entry_points import SCALE, Attention, one_text, texts_of


@pytest.fixture(autouse=True)
def _forget():
    trust.forget()
    yield
    trust.forget()
    assert not functions.installed()


# ---- FlashInfer (002920b, prefill.py)


class BatchPrefillWithRaggedKVCacheWrapper:
    def __init__(self, float_workspace_buffer=None, kv_layout="NHD"):
        self._kv_layout, self._custom_mask_buf, self._jit_module = kv_layout, None, None

    def plan(self, qo_indptr, kv_indptr, causal=False, pos_encoding_mode="NONE", window_left=-1, logits_soft_cap=None, sm_scale=None):
        self._qo_indptr_buf, self._kv_indptr_buf, self._causal, self._window_left = qo_indptr, kv_indptr, causal, window_left
        self._pos_encoding_mode, self._logits_soft_cap, self._sm_scale = pos_encoding_mode, logits_soft_cap, sm_scale

    def run(self, q, k, v, *args, return_lse=False):
        parts = texts_of(q, k, v, self._qo_indptr_buf, self._causal)
        out, lse = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], -1).T / 0.6931471805599453
        return (out, lse) if return_lse else out

    run_return_lse = functools.partialmethod(run, return_lse=True)


class BatchDecodeWithPagedKVCacheWrapper:
    def run(self, q, paged_kv_cache, *args, return_lse=False):
        return torch.zeros_like(q)


class Ragged(nn.Module):
    def __init__(self, method="run", **plan):
        super().__init__()
        self.attention, self.method, self.plan = Attention(None), method, plan

    def forward(self, x, bounds):
        wrapper = BatchPrefillWithRaggedKVCacheWrapper()
        wrapper.plan(bounds, bounds, causal=True, **self.plan)
        out = getattr(wrapper, self.method)(*self.attention.split(x))
        return out if self.method == "run" else out[0]


@pytest.fixture
def flashinfer(monkeypatch):
    module = types.ModuleType("flashinfer.prefill")
    module.BatchPrefillWithRaggedKVCacheWrapper = BatchPrefillWithRaggedKVCacheWrapper
    decode = types.ModuleType("flashinfer.decode")
    decode.BatchDecodeWithPagedKVCacheWrapper = BatchDecodeWithPagedKVCacheWrapper
    monkeypatch.setitem(sys.modules, "flashinfer.prefill", module)
    monkeypatch.setitem(sys.modules, "flashinfer.decode", decode)


@pytest.mark.usefixtures("flashinfer")
@pytest.mark.parametrize("method", ["run", "run_return_lse"])
def test_ragged_keys_are_read_by_their_plan(method):
    model, x, bounds = Ragged(method), torch.randn(11, 32), torch.tensor([0, 4, 5, 11], dtype=torch.int32)
    before = dict(vars(BatchPrefillWithRaggedKVCacheWrapper))
    with torch.no_grad():
        plain = model(x, bounds)
        with attviz.capture(model) as cap:
            captured = model(x, bounds)
    assert torch.equal(captured, plain)
    assert dict(vars(BatchPrefillWithRaggedKVCacheWrapper)) == before
    torch.testing.assert_close(cap.diagonal[0].double(), model.attention.truth(x, bounds), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("flashinfer")
@pytest.mark.parametrize("plan", [{"pos_encoding_mode": "ROPE_LLAMA"}])
def test_a_plan_that_rotates_is_refused(plan):
    model, bounds = Ragged(**plan), torch.tensor([0, 4], dtype=torch.int32)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(torch.randn(4, 32), bounds)
    assert any("rotates queries and keys itself" in why for why in cap.skipped.values())


class Paged(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention(None)

    def forward(self, x):
        return BatchDecodeWithPagedKVCacheWrapper().run(self.attention.split(x)[0], None)


@pytest.mark.usefixtures("flashinfer")
def test_paged_keys_are_refused_with_the_reason():
    model = Paged()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(torch.randn(4, 32))
    assert any("paged keys, in which a query's own key cannot be found" in why for why in cap.skipped.values())


# ---- TransformerEngine (fecb10b, cpp_extensions/fused_attn.py)

BACKENDS = "transformer_engine.pytorch.attention.dot_product_attention.backends"


def fused_attn_fwd(
    is_training, max_seqlen_q, max_seqlen_kv, cu_seqlens_q, cu_seqlens_kv, q, k, v, fake_dtype, fused_attention_backend, attn_bias=None,
    cu_seqlens_q_padded=None, cu_seqlens_kv_padded=None, page_table_k=None, page_table_v=None, s_quantizer=None, o_quantizer=None,
    attn_scale=None, dropout=0.0, fast_zero_fill=True, qkv_layout="sbh3d", attn_bias_type="no_bias", attn_mask_type="padding",
    softmax_type="vanilla", window_size=(-1, -1), rng_gen=None, softmax_offset=None, return_max_logit=False, cuda_graph=False,
):  # fmt: skip
    causal = "causal" in attn_mask_type
    if qkv_layout.startswith("thd"):
        parts = texts_of(q, k, v, cu_seqlens_q, causal)
        out, lse = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], -1).T[..., None]
    else:
        rows = [x.transpose(0, 1) if qkv_layout.startswith("sb") else x for x in (q, k, v)]
        lengths = cu_seqlens_kv.diff() if "padding" in attn_mask_type else [rows[1].shape[1]] * len(rows[0])
        parts = [one_text(a, b[:n], c[:n], causal) for a, b, c, n in zip(*rows, lengths, strict=True)]
        out, lse = torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts])[..., None]
        out = out.transpose(0, 1) if qkv_layout.startswith("sb") else out
    return out, [lse, torch.zeros(2, dtype=torch.long)] if is_training else None


class Fused(Attention):
    """Calls the function as FusedAttnFunc does, from the module that holds it."""

    def __init__(self, layout, **given):
        super().__init__(None, causal="causal" in given.get("attn_mask_type", "causal"))
        self.layout, self.given = layout, {"attn_mask_type": "causal", **given}

    def forward(self, x, bounds=None):
        q, k, v = self.split(x)
        if self.layout.startswith("sb"):
            q, k, v = (part.transpose(0, 1).contiguous() for part in (q, k, v))
        starts = torch.arange(len(x) + 1, dtype=torch.int32) * x.shape[1] if bounds is None else bounds
        call = sys.modules[BACKENDS].fused_attn_fwd
        return call(True, 9, 9, starts, starts, q, k, v, x.dtype, 1, attn_scale=SCALE, qkv_layout=self.layout, **self.given)[0]


@pytest.fixture
def engine(monkeypatch):
    module = types.ModuleType(BACKENDS)
    module.fused_attn_fwd = fused_attn_fwd
    monkeypatch.setitem(sys.modules, BACKENDS, module)
    return module


@pytest.mark.parametrize("layout", ["bshd_bshd_bshd", "sbhd_sbhd_sbhd", "bs3hd", "thd_thd_thd"])
@pytest.mark.parametrize("mask", ["causal", "no_mask"])
def test_fused_attention_of_every_layout_is_right(engine, layout, mask):
    model, packed = Fused(layout, attn_mask_type=mask), layout.startswith("thd")
    inputs = (torch.randn(11, 32), torch.tensor([0, 4, 5, 11], dtype=torch.int32)) if packed else (torch.randn(2, 7, 32),)
    with torch.no_grad():
        plain = model(*inputs)
        with attviz.capture(model, layers="") as cap:
            captured = model(*inputs)
    assert torch.equal(captured, plain)
    assert engine.fused_attn_fwd is fused_attn_fwd
    assert cap.records[0].operator == "transformer_engine::fused_attn_fwd"
    torch.testing.assert_close(cap.diagonal[0].double(), model.truth(*inputs), rtol=0, atol=1e-6)
    assert trust.known("transformer_engine::fused_attn_fwd", torch.zeros(1))  # by its own log-sum-exp


REFUSED = {
    "paged keys": {"page_table_k": torch.zeros(1)},
    "a softmax with an offset": {"softmax_type": "learnable"},
    "a bias of the type alibi": {"attn_bias_type": "alibi"},
    "a mask of its own": {"attn_mask_type": "arbitrary"},
}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_read_of_it_is_refused_with_the_reason(reason):
    model = Fused("bshd_bshd_bshd", **REFUSED[reason])
    with torch.no_grad(), attviz.capture(model, layers="") as cap:
        model(torch.randn(2, 7, 32))
    assert reason in cap.skipped[""]
    assert "NVTE_FUSED_ATTN=0" in cap.skipped[""]
