"""Further ways into attention, by stand-ins on the CPU that follow each library's schema and compute true attention."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types

import pytest
import torch
from torch import nn
from torch.library import Library
from torch.nn.attention.flex_attention import flex_attention

import attviz
from attviz.calls import trust
from attviz.hooks.tap import dispatcher, functions
from attviz.hooks.tap.operators import flash, registered

SCALE = 8**-0.5


def one_text(query, key, value, causal):
    """Output, log-sum-exp and weights of one text, ``[length, heads, head_dim]``, aligned bottom right."""
    scores = torch.einsum("qhd,khd->hqk", query.double(), key.double()) * SCALE
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1 + len(key) - len(query)), -torch.inf)
    weights = scores.softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value.double()).to(query.dtype), scores.logsumexp(-1).float(), weights


def texts_of(query, key, value, starts, causal):
    return [one_text(query[a:b], key[a:b], value[a:b], causal) for a, b in itertools.pairwise(starts)]


def padded(rows, longest):
    return torch.nn.functional.pad(rows, (0, longest - rows.shape[-1]), value=torch.inf)


def efficient(q, k, v, bias, cu_q, cu_k, max_q, max_k, dropout, mask, want_lse=False, *, scale=None, seqlen_k=None, window_size=None):
    starts = cu_q if cu_q is not None else None
    parts = (
        texts_of(q[0], k[0], v[0], starts, mask > 0)
        if starts is not None
        else [one_text(*each, mask > 0) for each in zip(q, k, v, strict=True)]
    )
    longest = -(-max(part[1].shape[-1] for part in parts) // 32) * 32
    lse = torch.stack([padded(part[1], longest) for part in parts]) if want_lse else torch.empty(len(parts), q.shape[2], 0)
    outputs = [part[0] for part in parts]
    seed = torch.zeros((), dtype=torch.long)
    return torch.cat(outputs)[None] if starts is not None else torch.stack(outputs), lse, seed, seed.clone(), 0, 0


def cudnn(q, k, v, bias, cu_q, cu_k, max_q, max_k, want_lse, dropout=0.0, causal=False, debug=False, *, scale=None):
    empty = torch.empty(0)
    if cu_q is not None:
        parts = texts_of(q, k, v, cu_q, causal)
        found = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], -1).T[..., None].contiguous()
    else:
        parts = [one_text(*(x.transpose(0, 1) for x in each), causal) for each in zip(q, k, v, strict=True)]
        found = torch.stack([part[0].transpose(0, 1) for part in parts]), torch.stack([part[1] for part in parts])[..., None]
    return *found, empty, empty.clone(), 0, 0, empty.clone(), empty.clone(), empty.clone()


def flash_raw(q, k, v, cu_q, cu_k, max_q, max_k, dropout, causal, debug, *, window_size_right=None, **_):
    parts = texts_of(q, k, v, cu_q, causal or window_size_right == 0)
    empty = torch.empty(0)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], -1), empty, empty.clone(), empty.clone()


THIRD = (
    "fwd(Tensor q, Tensor k, Tensor v, Tensor? k_new=None, Tensor? v_new=None, Tensor? q_v=None, Tensor? out=None, "
    "Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, Tensor? cu_seqlens_k_new=None, Tensor? seqused_q=None, "
    "Tensor? seqused_k=None, int? max_seqlen_q=None, int? max_seqlen_k=None, Tensor? page_table=None, Tensor? kv_batch_idx=None, "
    "Tensor? leftpad_k=None, Tensor? rotary_cos=None, Tensor? rotary_sin=None, Tensor? seqlens_rotary=None, Tensor? q_descale=None, "
    "Tensor? k_descale=None, Tensor? v_descale=None, float? softmax_scale=None, bool is_causal=False, int window_size_left=-1, "
    "int window_size_right=-1, int attention_chunk=0, float softcap=0.0, bool is_rotary_interleaved=False, "
    "Tensor? scheduler_metadata=None, int num_splits=0, bool? pack_gqa=None, int sm_margin=0) -> (Tensor, Tensor, Tensor, Tensor)"
)  # flash-attention 01d6dd1, hopper/flash_api_stable.cpp; what it marks as changed in place is not used here
XFORMERS = (
    "flash_fwd(Tensor query, Tensor key, Tensor value, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? seqused_k, int max_seqlen_q, "
    "int max_seqlen_k, float p, float softmax_scale, bool is_causal, int window_left=-1, int window_right=-1) -> (Tensor, Tensor)"
)  # xformers/ops/fmha/flash.py

MSLK = (
    "flash_fwd(Tensor query, Tensor key, Tensor value, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? seqused_k, "
    "SymInt max_seqlen_q, SymInt max_seqlen_k, float p, float softmax_scale, bool is_causal, SymInt window_left, SymInt window_right, "
    "bool return_softmax, Tensor? block_tables) -> (Tensor, Tensor, Tensor)"
)  # MSLK 358bc2e, mslk/attention/fmha/flash.py


def third(q, k, v, *rest):
    cu_seqlens_q, is_causal = rest[4], rest[21]
    if cu_seqlens_q is not None:
        parts = texts_of(q, k, v, cu_seqlens_q, is_causal)
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], -1), torch.empty(0), torch.empty(0)
    parts = [one_text(*each, is_causal) for each in zip(q, k, v, strict=True)]
    return torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts]), torch.empty(0), torch.empty(0)


def xformers(q, k, v, cu_q, cu_k, used, max_q, max_k, p, scale, causal, left=-1, right=-1):
    return third(q, k, v, *(None,) * 4, cu_q, *(None,) * 16, causal)[:2]


def mslk(q, k, v, cu_q, cu_k, used, max_q, max_k, p, scale, causal, left, right, softmax, tables):
    return third(q, k, v, *(None,) * 4, cu_q, *(None,) * 16, causal)[:3]


@pytest.fixture(autouse=True)
def stand_ins():
    """CPU kernels for operators that have none; gone again afterwards."""
    libraries = [Library("aten", "IMPL"), Library("flash_attn_3", "FRAGMENT"), Library("xformers_flash", "FRAGMENT")]
    libraries.append(Library("mslk_flash", "FRAGMENT"))
    libraries[0].impl("_efficient_attention_forward", efficient, "CPU")
    libraries[0].impl("_cudnn_attention_forward", cudnn, "CPU")
    libraries[0].impl("_flash_attention_forward", flash_raw, "CPU")
    for library, schema, stand_in in zip(libraries[1:], (THIRD, XFORMERS, MSLK), (third, xformers, mslk), strict=True):
        library.define(schema)
        library.impl(schema.split("(")[0], stand_in, "CPU")
    trust.forget()
    flash._parameters.cache_clear()
    yield
    for library in libraries:
        library._destroy()
    trust.forget()
    flash._parameters.cache_clear()


class Attention(nn.Module):
    """Four heads in the layout ``[length, heads, head_dim]``, packed where bounds are given; ``call`` is the entry point."""

    def __init__(self, call, causal=True):
        super().__init__()
        self.qkv, self.call, self.causal = nn.Linear(32, 96), call, causal

    def split(self, x):
        return self.qkv(x).unflatten(-1, (3, 4, 8)).unbind(-3)

    def forward(self, x, bounds=None):
        return self.call(*self.split(x), bounds, self.causal)

    @torch.no_grad()
    def truth(self, x, bounds=None):
        texts = x if bounds is None else [x[a:b] for a, b in itertools.pairwise(bounds)]
        diagonals = [one_text(*self.split(text), self.causal)[2].diagonal(0, -2, -1) for text in texts]
        return torch.stack(diagonals) if bounds is None else torch.cat(diagonals, -1)[None]


def call_efficient(q, k, v, bounds, causal):
    if bounds is not None:
        q, k, v = q[None], k[None], v[None]
    return torch.ops.aten._efficient_attention_forward(q, k, v, None, bounds, bounds, 9, 9, 0.0, 2 if causal else 0)[0]


def call_cudnn(q, k, v, bounds, causal):
    if bounds is None:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.ops.aten._cudnn_attention_forward(q, k, v, None, bounds, bounds, 9, 9, False, 0.0, causal)[0]


def call_varlen(q, k, v, bounds, causal):
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(q, k, v, bounds, bounds, 9, 9, **({"is_causal": causal} if torch.__version__ < "2.11" else {"window_size": (-1, 0)}))


def call_third(q, k, v, bounds, causal):
    return torch.ops.flash_attn_3.fwd(q, k, v, cu_seqlens_q=bounds, cu_seqlens_k=bounds, is_causal=causal)[0]


def call_xformers(q, k, v, bounds, causal):
    return torch.ops.xformers_flash.flash_fwd(q, k, v, bounds, bounds, None, 9, 9, 0.0, SCALE, causal)[0]


def call_mslk(q, k, v, bounds, causal):
    return torch.ops.mslk_flash.flash_fwd(q, k, v, bounds, bounds, None, 9, 9, 0.0, SCALE, causal, -1, -1, False, None)[0]


ENTRIES = {
    "memory-efficient": (call_efficient, "aten::_efficient_attention_forward"),
    "cudnn": (call_cudnn, "aten::_cudnn_attention_forward"),
    "flash-attn 3": (call_third, "flash_attn_3::fwd"),
    "xformers": (call_xformers, "xformers_flash::flash_fwd"),
    "mslk": (call_mslk, "mslk_flash::flash_fwd"),
    "varlen_attn": (call_varlen, "aten::_flash_attention_forward"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ENTRIES)
def test_the_diagonal_is_that_of_float64_and_the_output_unchanged(name, packed):
    call, operator = ENTRIES[name]
    if name == "varlen_attn" and not packed:
        pytest.skip("takes packed texts only")
    if name == "varlen_attn" and importlib.util.find_spec("torch.nn.attention.varlen") is None:
        pytest.skip("torch 2.9 has no varlen_attn")
    model, bounds = Attention(call), torch.tensor([0, 4, 5, 11], dtype=torch.int32)
    inputs = (torch.randn(11, 32), bounds) if packed else (torch.randn(2, 7, 32),)
    with torch.no_grad():
        plain = model(*inputs)
        with attviz.capture(model) as cap:
            captured = model(*inputs)
    assert torch.equal(captured, plain)
    assert cap.records[0].operator == operator
    torch.testing.assert_close(cap.diagonal[0].double(), model.truth(*inputs), rtol=0, atol=1e-6)


REFUSED = {
    "8-bit": {"q_descale": torch.ones(1)},
    "rotates": {"rotary_cos": torch.ones(1), "rotary_sin": torch.ones(1)},
    "paged": {"page_table": torch.ones(1, dtype=torch.int32)},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(reason):
    def call(q, k, v, bounds, causal):
        return torch.ops.flash_attn_3.fwd(q, k, v, is_causal=causal, **REFUSED[reason])[0]

    model = Attention(call)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(torch.randn(2, 7, 32))
    assert any(reason in why for why in cap.skipped.values())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8], ids=str)
def test_8_bit_numbers_without_a_scale_are_refused_too(dtype):
    """Their scales may be left out: FlashAttention-3 takes them for 1."""

    def call(q, k, v, bounds, causal):
        return torch.ops.flash_attn_3.fwd(*(part.to(dtype) for part in (q, k, v)), is_causal=causal)[0].float()

    model, x = Attention(call), torch.randn(2, 7, 32)
    with torch.no_grad():
        plain = model(x)
        with attviz.capture(model) as cap:
            captured = model(x)
    assert torch.equal(captured, plain)
    assert any("8-bit" in why for why in cap.skipped.values())


QUANTIZED = {
    "aten::_scaled_dot_product_flash_attention.quantized": (),
    "aten::_flash_attention_forward.quantized": (None, None, 9, 9, 0.0, False, False),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_the_8_bit_overloads_of_torch_are_refused_with_the_reason(name):
    packet = getattr(torch.ops.aten, name[6:].split(".")[0])
    if "quantized" not in packet.overloads():
        pytest.skip("torch 2.13 has it first")
    (entry,) = (operator for operator in registered() if operator.name == name)
    query, scale = torch.randn(1, 5, 4, 8).to(torch.float8_e4m3fn), torch.ones(1)
    assert "8-bit" in entry.read((query, query, query, *QUANTIZED[name], scale, scale, scale), {}, (query, torch.zeros(1, 4, 5)))


def test_functions_of_flash_attention_4_are_refused():
    read = flash.reader("flash_attn.cute::flash_attn_func", lambda: ("q", "k", "v", "causal", "score_mod", "mask_mod"))
    query = torch.randn(1, 5, 4, 8)
    assert "use flex_attention" in read((query, query, query, True), {"score_mod": lambda *_: 0}, query)
    assert "mask_mod" in read((query, query, query, True), {"mask_mod": lambda *_: True}, query)
    assert not isinstance(read((query, query, query, True), {}, query), str)


def test_sparse_blocks_and_block_scales_of_flash_attention_4_are_refused():
    """As ``flash_attn_func`` of flash_attn/cute/interface.py takes them beside, or without, a ``mask_mod``."""
    names = ("q", "k", "v", "causal", "mask_mod", "full_block_cnt", "full_block_idx", "mSFQ", "mSFK")
    read = flash.reader("flash_attn.cute::flash_attn_func", lambda: names)
    query, counts = torch.randn(1, 5, 4, 8), torch.ones(1, 1, 1, dtype=torch.int32)
    assert "sparse blocks" in read((query, query, query, True), {"full_block_cnt": counts, "full_block_idx": counts}, query)
    assert "8-bit" in read((query, query, query, True), {"mSFQ": counts, "mSFK": counts}, query)


# ---- functions that pass no operator


class OfTheClass(nn.Module):
    """As torchtitan's FlexAttentionWrapper keeps it (torchtitan/models/attention.py)."""

    compiled = torch.compile(flex_attention, backend="eager")
    static = staticmethod(torch.compile(flex_attention, backend="eager"))

    def __init__(self, where):
        super().__init__()
        self.qkv, self.where = nn.Linear(32, 96), where

    def split(self, x):
        return self.qkv(x).unflatten(-1, (3, 4, 8)).transpose(1, 3).unbind(2)

    def forward(self, x):
        attend = OfTheClass.compiled if self.where == "compiled" else self.static
        return attend(*self.split(x), score_mod=lambda score, b, h, q, k: score - 0.1 * (q - k).abs())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("where", ["compiled", "static"])
def test_a_compiled_flex_attention_that_a_class_holds_is_right(where):
    model, x, before = OfTheClass(where).eval(), torch.randn(2, 16, 32), dict(vars(OfTheClass))
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        plain = model(x)
        with attviz.capture(model, layers="") as cap:
            captured = model(x)
        query, key, _ = (part.double() for part in model.split(x))
    assert torch.equal(plain, captured)
    assert dict(vars(OfTheClass)) == before
    assert not functions.installed()
    places = torch.arange(16)
    scores = query @ key.mT * SCALE - 0.1 * (places[:, None] - places).abs()
    torch.testing.assert_close(cap.diagonal[0].double(), scores.softmax(-1).diagonal(0, -2, -1), rtol=0, atol=1e-6)


def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs):
    return torch.nn.functional.softmax(q @ k.mT * SCALE, dim=-1) @ v  # what stands inside is hidden by the function around it


sageattn.__module__ = "sageattention.core"


def single_prefill_with_kv_cache(q, k, v, causal=False, kv_layout="NHD", pos_encoding_mode="NONE", sm_scale=None, window_left=-1):
    return one_text(q, k, v, causal)[0]


single_prefill_with_kv_cache.__module__ = "flashinfer.prefill"


class Sage(Attention):
    def forward(self, x):
        return sageattn(*(part.transpose(1, 2) for part in self.split(x)))


class Prefill(Attention):
    def forward(self, x):
        return single_prefill_with_kv_cache(*self.split(x), self.causal)


def test_sage_attention_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "sageattention", types.ModuleType("sageattention"))
    model, before = Sage(None), sageattn
    with torch.no_grad(), attviz.capture(model, layers="") as cap:
        model(torch.randn(2, 7, 32))
    assert sageattn is before
    assert "rounds queries and keys to 8 bits" in cap.skipped[""]
    assert not cap.records


def test_flashinfers_single_request_is_read_from_query_and_key(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", types.ModuleType("flashinfer"))
    model, x = Prefill(None), torch.randn(7, 32)
    with torch.no_grad(), attviz.capture(model, layers="") as cap:
        model(x)
    torch.testing.assert_close(cap.diagonal[0].double(), model.truth(x[None]), rtol=0, atol=1e-6)


def test_a_kernel_of_the_hub_that_diffusers_dispatches_to(monkeypatch):
    """``_HUB_KERNELS_REGISTRY`` of diffusers/models/attention_dispatch.py holds the function; the backend calls it from there."""

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), return_attn_probs=False):
        parts = [one_text(*each, causal) for each in zip(q, k, v, strict=True)]
        found = torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts]), None
        return found if return_attn_probs else found[0]

    config = types.SimpleNamespace(repo_id="kernels-community/flash-attn2", kernel_fn=flash_attn_func)
    dispatch = types.ModuleType("diffusers.models.attention_dispatch")
    dispatch._HUB_KERNELS_REGISTRY = {"flash_hub": config}
    monkeypatch.setitem(sys.modules, "diffusers.models.attention_dispatch", dispatch)
    model, x = Attention(lambda q, k, v, bounds, causal: config.kernel_fn(q=q, k=k, v=v, causal=causal)), torch.randn(2, 7, 32)
    with torch.no_grad(), attviz.capture(model, layers="") as cap:
        model(x)
    assert config.kernel_fn is flash_attn_func
    torch.testing.assert_close(cap.diagonal[0].double(), model.truth(x), rtol=0, atol=1e-6)


# ---- devices


def test_a_backend_says_itself_whether_it_is_there(monkeypatch):
    assert not dispatcher._device_present("HPU")
    assert not dispatcher._device_present("PrivateUse1")
    monkeypatch.setattr(torch, "hpu", types.SimpleNamespace(is_available=lambda: True), raising=False)
    assert dispatcher._device_present("HPU")
    monkeypatch.setattr(torch, torch._C._get_privateuse1_backend_name(), types.SimpleNamespace(is_available=lambda: True), raising=False)
    assert dispatcher._device_present("PrivateUse1")
    assert dispatcher._device_present("XPU") == torch.xpu.is_available()
