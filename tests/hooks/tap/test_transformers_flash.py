"""transformers' flash attention with kernels from the hub, loaded through its own loader; the kernels are stand-ins that run on the CPU.

They have the signatures of the published ones (flash-attn 2, and vLLM's 3 with sinks) and compute true attention in float64.
"""

from __future__ import annotations

import copy
from types import ModuleType

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers import modeling_flash_attention_utils as utils
from transformers.integrations import hub_kernels

import attviz
from attviz.calls import trust
from attviz.errors import CaptureError, CaptureWarning
from attviz.hooks.tap import dispatcher, functions
from attviz.hooks.tap.operators import flash
from tests.hooks.tap.test_flash import one_text

SIZES = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "attn_logit_softcapping": 2.0},
    "bert": {},
}
NAME = "kernels-community/stand-in"


def attend(q, k, v, scale, causal, window, softcap, slopes=None, sinks=None):
    """One text. With sinks the log-sum-exp holds them, as in vLLM's flash-attn 3."""
    left, right = (-1 if side is None else side for side in window)
    output, lse, _ = one_text(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, causal, left, right, softcap, slopes)
    if sinks is not None:
        held = torch.logaddexp(lse, sinks.float()[:, None])
        output, lse = output * torch.exp(lse - held).T[..., None].to(output.dtype), held
    return output, lse


def split(cu):
    return list(zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True))


def flash_attn_func(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
    return_attn_probs=False,
):  # fmt: skip
    texts = [attend(*parts, softmax_scale, causal, window_size, softcap, alibi_slopes) for parts in zip(q, k, v, strict=True)]
    output, lse = torch.stack([text[0] for text in texts]), torch.stack([text[1] for text in texts])
    return (output, lse, None) if return_attn_probs else output


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False, block_table=None,
):  # fmt: skip
    bounds = zip(split(cu_seqlens_q), split(cu_seqlens_k), strict=True)
    texts = [attend(q[a:b], k[c:d], v[c:d], softmax_scale, causal, window_size, softcap, alibi_slopes) for (a, b), (c, d) in bounds]
    output, lse = torch.cat([text[0] for text in texts]), torch.cat([text[1] for text in texts], -1)
    return (output, lse, None) if return_attn_probs else output


def with_sinks(
    q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, s_aux=None, return_softmax_lse=False,
):  # fmt: skip
    bounds = zip(split(cu_seqlens_q), split(cu_seqlens_k), strict=True)
    texts = [attend(q[a:b], k[c:d], v[c:d], softmax_scale, causal, window_size, softcap, None, s_aux) for (a, b), (c, d) in bounds]
    output, lse = torch.cat([text[0] for text in texts]), torch.cat([text[1] for text in texts], -1)
    return (output, lse) if return_softmax_lse else output


def dense_with_sinks(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, s_aux=None, return_softmax_lse=False):
    texts = [attend(*parts, softmax_scale, causal, window_size, softcap, None, s_aux) for parts in zip(q, k, v, strict=True)]
    output, lse = torch.stack([text[0] for text in texts]), torch.stack([text[1] for text in texts])
    return (output, lse) if return_softmax_lse else output


def flash_attn_with_kvcache(q, k_cache, v_cache, k=None, v=None, cache_seqlens=None, block_table=None, softmax_scale=None, causal=False):
    return torch.zeros_like(q)  # what it computes does not matter: paged keys are skipped


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    """The stand-in as transformers would load it from the hub; everything it sets is undone."""
    module = ModuleType("stand_in")
    module.flash_attn_func, module.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    module.flash_attn_with_kvcache = flash_attn_with_kvcache
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *args, **kwargs: True, raising=False)
    monkeypatch.setattr(hub_kernels, "_kernels_available", True, raising=False)  # what transformers 4.57 asks instead
    monkeypatch.setattr(hub_kernels, "get_kernel", lambda *args, **kwargs: module, raising=False)
    for name in ("_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_pad_fn", "_unpad_fn"):
        monkeypatch.setattr(utils, name, None, raising=False)
    trust.forget()
    before = utils.lazy_import_flash_attention
    yield module
    assert utils.lazy_import_flash_attention is before
    assert not functions.installed()
    assert not dispatcher.installed()
    trust.forget()


def model_of(family: str, auto: type = AutoModel, **options: object) -> nn.Module:
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES.get(family, {}), **options})
    model = auto.from_config(config, attn_implementation="eager").eval()
    model.set_attn_implementation(NAME)
    return model


def batch(side: str) -> dict[str, torch.Tensor]:
    ids, mask = torch.randint(1, 99, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    if side != "none":
        mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask.flip(1) if side == "left" else mask}


def eager(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weights of the same model's eager forward, NaN at padding."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions
    diagonal = torch.stack(weights)[..., : inputs["input_ids"].shape[1]].diagonal(0, -2, -1)
    return torch.where(inputs["attention_mask"].bool()[:, None], diagonal, torch.nan)


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_eager_model_and_changes_nothing(family, side):
    model, inputs = model_of(family), batch(side)
    if not model._supports_flash_attn:
        pytest.skip(f"this release of transformers has no flash kernels for {family}")
    with torch.no_grad():
        plain = model(**inputs).last_hidden_state
        with attviz.capture(model) as cap:
            captured = model(**inputs).last_hidden_state
    assert torch.equal(captured, plain)
    assert cap.diagonal.shape == (2, 2, 4, 9)
    assert cap.records[0].operator.endswith("flash_attn_func" if side == "none" else "flash_attn_varlen_func")
    torch.testing.assert_close(cap.diagonal, eager(model, inputs), rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_health_and_roles_are_those_of_the_eager_model(family, side):
    """AttentionHealth and HeadRoles on dense and variable-length flash calls, with windows and soft caps."""
    model, inputs = model_of(family), batch(side)
    if not model._supports_flash_attn:
        pytest.skip(f"this release of transformers has no flash kernels for {family}")
    tables = []
    for implementation in (NAME, "eager"):
        model.set_attn_implementation(implementation)
        health, roles = attviz.metrics.AttentionHealth(on_alarm="ignore"), attviz.metrics.HeadRoles()
        with torch.no_grad(), attviz.capture(model, metrics=[health, roles], keep="none"):
            model(**inputs)
        assert health.reasons == roles.reasons == {}
        tables.append((health.compute(), roles.compute()))
    (flash_health, flash_roles), (eager_health, eager_roles) = tables
    for name in ("row_entropy", "min_row_entropy", "max_logit", "first_token", "diagonal"):
        torch.testing.assert_close(getattr(flash_health, name), getattr(eager_health, name), rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(flash_roles.mass, eager_roles.mass, rtol=1e-4, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(flash_roles.chance, eager_roles.chance, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("side", ["none", "left"])
def test_generation_equals_a_full_forward(side):
    model, inputs = model_of("llama", AutoModelForCausalLM), batch(side)
    with attviz.capture(model, keep="all") as cap:
        out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 5, dtype=torch.long)], 1)
    full = eager(model, {"input_ids": out, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)})
    torch.testing.assert_close(cap.sequence_diagonal(), full[..., :-1], rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("side", ["none", "right"])
@pytest.mark.parametrize("held", [True, False])
def test_sinks_whether_the_logsumexp_holds_them_or_not(kernel, monkeypatch, side, held):
    kernel.flash_attn_func, kernel.flash_attn_varlen_func = dense_with_sinks, with_sinks
    if not held:
        right, sinks = flash._logsumexp_of, []
        monkeypatch.setattr(
            flash, "_logsumexp_of", lambda result: (lse := right(result)) + torch.log1p(-torch.exp(sinks[-1][:, None] - lse))
        )
        real = flash._bound
        monkeypatch.setattr(flash, "_bound", lambda *given: sinks.append((bound := real(*given))["sinks"].detach()) or bound)
    model, inputs = model_of("gpt_oss", num_local_experts=2, num_experts_per_tok=1), batch(side)
    nn.init.normal_(model.layers[0].self_attn.sinks)
    nn.init.normal_(model.layers[1].self_attn.sinks)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(**inputs)
    torch.testing.assert_close(cap.diagonal, eager(model, inputs), rtol=0, atol=1e-5, equal_nan=True)


def test_gradients_and_results_are_bit_identical():
    model, inputs = model_of("llama").train(), batch("right")
    twin = copy.deepcopy(model)
    model(**inputs).last_hidden_state.square().mean().backward()
    with attviz.capture(twin):
        twin(**inputs).last_hidden_state.square().mean().backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("rule", ["no log-sum-exp", "dropout"])
def test_without_a_logsumexp_query_and_key_serve(kernel, monkeypatch, rule):
    asked = []

    def plain(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), deterministic=False):
        return flash_attn_func(q, k, v, dropout_p, softmax_scale, causal, window_size)

    def with_dropout(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, deterministic=False, return_attn_probs=False):
        asked.append((dropout_p, return_attn_probs))
        return flash_attn_func(q, k, v, 0.0, softmax_scale, causal)

    kernel.flash_attn_func = plain if rule == "no log-sum-exp" else with_dropout
    model, inputs = model_of("llama", attention_dropout=0.1), batch("none")
    model.train(rule == "dropout")
    with torch.no_grad(), attviz.capture(model) as cap:
        model(**inputs)
    assert set(asked) <= {(0.1, False)}
    torch.testing.assert_close(cap.diagonal, eager(model.eval(), inputs), rtol=0, atol=1e-5)


def test_a_wrong_logsumexp_is_found_out_and_not_used(kernel):
    def wrong(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, deterministic=False, return_attn_probs=False):
        output, lse, _ = flash_attn_func(q, k, v, 0.0, softmax_scale, causal, return_attn_probs=True)
        return (output, lse + 0.6931472, None) if return_attn_probs else output

    kernel.flash_attn_func = wrong
    model, inputs = model_of("llama"), batch("none")
    with pytest.warns(CaptureWarning, match=r"wrong returned for torch\.float32"), torch.no_grad(), attviz.capture(model) as cap:
        model(**inputs)
    torch.testing.assert_close(cap.diagonal, eager(model, inputs), rtol=0, atol=1e-5)


def test_a_kernel_with_another_schema_is_loud(kernel):
    kernel.flash_attn_func = lambda q, k, v, **others: flash_attn_func(q, k, v, causal=others["causal"])
    model, inputs = model_of("llama"), batch("none")
    with pytest.raises(CaptureError, match=r"its schema has no is_causal or causal but \('q', 'k', 'v', 'others'\)"):
        with torch.no_grad(), attviz.capture(model):
            model(**inputs)


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4.57 names the pages in other words")
def test_paged_keys_are_skipped_with_the_reason():
    model = model_of("llama", num_hidden_layers=1)
    attention = model.layers[0].self_attn
    paged = {
        "block_table": torch.zeros(2, 1, dtype=torch.int32), "cu_seq_lens_q": torch.arange(3), "cu_seq_lens_k": torch.tensor([0, 4, 9]),
        "max_length_q": 1, "max_length_k": 5, "k_cache": torch.zeros(1, 16, 2, 8), "v_cache": torch.zeros(1, 16, 2, 8),
    }  # fmt: skip
    rotary = torch.ones(1, 2, 8), torch.zeros(1, 2, 8)
    with torch.no_grad(), attviz.capture(model) as cap:
        attention(torch.randn(1, 2, 32), position_embeddings=rotary, attention_mask=None, **paged)
    assert "paged" in cap.skipped["layers.0.self_attn"]


def test_the_packages_own_functions_are_left_to_their_operators(monkeypatch):
    from torch.library import Library

    from attviz.hooks.tap import transformers as watched

    def of_the_package(q, k, v, causal=False):
        return q

    of_the_package.__module__ = "flash_attn.flash_attn_interface"
    assert watched.watched_kernel.__wrapped__(of_the_package) is not of_the_package  # too old to have operators
    library = Library("flash_attn", "FRAGMENT")
    library.define("_flash_attn_forward(Tensor q, Tensor k, bool causal) -> Tensor")
    try:
        assert watched.watched_kernel.__wrapped__(of_the_package) is of_the_package
    finally:
        library._destroy()
