"""transformers' flex_attention: eager models whose attention is a compiled function that passes no operator.

Most tests run it uncompiled (``set_stance``), which calls the very same function with the same arguments and takes no minute to compile.
"""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask
from transformers import AutoConfig, AutoModel
from transformers.integrations import flex_attention as integration

import attviz
from attviz.calls import ScoredCall, trust
from attviz.errors import CaptureWarning
from attviz.hooks.tap import dispatcher, functions
from benchmarks.families.check import check_family
from tests.test_decoding import CONFIGS, MAJOR, NEW, PROMPT, build, full_forward, prompt

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch, about how transformers compiles its block mask
    pytest.mark.filterwarnings("ignore:return_lse is deprecated:FutureWarning"),  # torch 2.9, of transformers 4.57
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
]

SIZES = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "six heads": {
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
    },  # no power of two: transformers repeats the keys itself
    "qwen2": {},
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "bert": {},
}


@pytest.fixture(autouse=True)
def _nothing_left():
    held = vars(integration.WrappedFlexAttention)["__call__"]
    yield
    assert vars(integration.WrappedFlexAttention)["__call__"] is held
    assert not functions.installed()
    assert not dispatcher.installed()


@pytest.fixture
def uncompiled():
    with torch.compiler.set_stance("force_eager"):
        yield


def model_of(name: str, **options: object) -> nn.Module:
    config = AutoConfig.for_model("llama" if " " in name else name, **{**SIZES, **FAMILIES[name], **options})
    return AutoModel.from_config(config, attn_implementation="flex_attention").eval()


def batch(side: str = "right") -> dict[str, torch.Tensor]:
    ids, mask = torch.randint(1, 99, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    if side != "none":
        mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask.flip(1) if side == "left" else mask}


def eager(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weights of the same model's eager forward in float64, NaN at padding; of padding on the left float64 makes NaN everywhere."""
    model = copy.deepcopy(model)
    model = model.double() if bool(inputs["attention_mask"][:, 0].all()) else model
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions
    return torch.where(inputs["attention_mask"].bool()[:, None], torch.stack(weights).diagonal(0, -2, -1).double(), torch.nan)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_eager_model_and_changes_nothing(family, side):
    if family == "bert" and MAJOR < 5:
        pytest.skip("transformers 4.57 has no flex_attention for BERT")
    model, inputs = model_of(family), batch(side)
    with torch.no_grad():
        plain = model(**inputs).last_hidden_state
        with attviz.capture(model) as cap:
            captured = model(**inputs).last_hidden_state
    assert torch.equal(captured, plain)
    assert len(cap.layers) == 2
    assert {record.operator for record in cap.records} == {"flex_attention"}
    torch.testing.assert_close(cap.diagonal.double(), eager(model, inputs), rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("way", [{}, {"prefill_chunk_size": 4}])
@pytest.mark.parametrize("config", ["grouped", "mixed"])
def test_generation_equals_a_full_forward(config, way):
    model = build(CONFIGS[config], "flex_attention")
    ids, mask = prompt(padded=not (way and MAJOR < 5))  # transformers 4.57 counts padding as positions there: another model
    with attviz.capture(model, keep="all") as cap:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, **way)
    joined = cap.sequence_diagonal()
    assert joined.shape[-1] == PROMPT + NEW - 1
    torch.testing.assert_close(joined, full_forward(model, out, mask), rtol=0, atol=1e-5, equal_nan=True)


def test_an_offset_that_only_the_device_knows():
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 7, 8)
    mask = create_block_mask(lambda b, h, q, k: q + 2 >= k, None, None, 3, 7, device="cpu")
    call = ScoredCall("flex_attention", query, key, None, mask)
    scores = query.double() @ key.double().repeat_interleave(2, 1).mT * 8**-0.5
    weights = scores.masked_fill(torch.arange(7) > torch.arange(3)[:, None] + 2, -torch.inf).softmax(-1)
    for offset in (2, torch.tensor(2)):
        torch.testing.assert_close(call.replace(kv_offset=offset).own().double(), weights.diagonal(2, -2, -1)[..., :3], rtol=0, atol=1e-6)
    assert (call.replace(kv_offset=torch.tensor(2)).own(1) == 0).all()  # hidden
    assert call.own(-1)[..., 0].isnan().all()  # not there


@pytest.mark.usefixtures("uncompiled")
def test_long_rows_are_summed_in_blocks(monkeypatch):
    from attviz.calls import call

    monkeypatch.setattr(call, "TILE", 100)  # two rows of 2 texts, 4 heads and 9 keys would be 144 scores
    model, inputs = model_of("gemma2"), batch()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(**inputs)
    torch.testing.assert_close(cap.diagonal.double(), eager(model, inputs), rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.usefixtures("uncompiled")
def test_half_precision_under_autocast_is_that_of_the_cast_inputs():
    model, inputs = model_of("llama"), batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(**inputs).last_hidden_state
        with attviz.capture(model) as cap:
            captured = model(**inputs).last_hidden_state
    assert torch.equal(captured, plain)
    torch.testing.assert_close(cap.diagonal.double(), eager(model, inputs), rtol=0, atol=2e-2, equal_nan=True)  # the truth is float32


class Sinks(nn.Module):
    """What transformers does on a GPU: the kernel hands out its log-sum-exp, and the sinks are folded in afterwards."""

    def __init__(self, base: float = 1.0):
        super().__init__()
        self.qkv, self.logits, self.base = nn.Linear(32, 64), nn.Parameter(torch.randn(4)), base

    def split(self, x):
        return (part.transpose(1, 2) for part in self.qkv(x).unflatten(-1, (8, 8)).split([4, 2, 2], -2))

    def forward(self, x):
        return self.attend(*self.split(x), self.logits)

    def attend(self, query, key, value, s_aux):
        asks = getattr(integration, "get_flex_attention_lse_kwargs", lambda wanted: {"return_lse": wanted})  # transformers 4.57
        output, aux = integration.compile_friendly_flex_attention(query, key, value, scale=0.3, enable_gqa=True, **asks(True))
        lse = getattr(aux, "lse", aux)[..., None]
        return output * torch.exp(lse - torch.logaddexp(lse, s_aux[:, None, None]))

    def truth(self, x):
        query, key, _ = self.split(x)
        scores = query.double() @ key.double().repeat_interleave(2, 1).mT * 0.3
        sinks = self.logits.double()[:, None, None].expand(len(x), -1, x.shape[1], 1)
        return torch.cat([scores, sinks], -1).softmax(-1).diagonal(0, -2, -1)


@pytest.mark.usefixtures("uncompiled")
def test_the_kernels_own_logsumexp_and_the_sinks_after_it():
    trust.forget()
    model, x = Sinks(), torch.randn(2, 7, 32)
    with torch.no_grad(), attviz.capture(model, layers="") as cap:
        model(x)
    torch.testing.assert_close(cap.diagonal[0].double(), model.truth(x).detach(), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("fault", [lambda lse: lse / 0.6931472, lambda lse: lse + 0.6931472, torch.zeros_like])
def test_a_wrong_logsumexp_is_found_out_and_not_used(monkeypatch, fault):
    from attviz.hooks.tap.operators import flex

    trust.forget()
    right = flex._logsumexp_of
    monkeypatch.setattr(flex, "_logsumexp_of", lambda result: fault(right(result)))
    model, x = Sinks(), torch.randn(2, 7, 32)
    with torch.no_grad(), attviz.capture(model, layers="", keep="all") as cap:
        with pytest.warns(CaptureWarning, match="flex_attention returned"):
            model(x)
        model(x)  # silent from now on
    for step in cap.steps:
        torch.testing.assert_close(step[0].diagonal.double(), model.truth(x).detach(), rtol=0, atol=1e-6)
    trust.forget()


@pytest.mark.usefixtures("uncompiled")
def test_exceptions_and_nested_captures_leave_nothing():
    model, other, inputs = model_of("llama"), model_of("qwen2"), batch()
    with pytest.raises(ZeroDivisionError), attviz.capture(model):
        raise ZeroDivisionError
    assert not functions.installed()
    first = attviz.capture(model).__enter__()
    with torch.no_grad(), attviz.capture(other) as second:
        model(**inputs)
        first.__exit__(None, None, None)  # not in the order of entry
        other(**inputs)
    for cap, captured in ((first, model), (second, other)):
        torch.testing.assert_close(cap.diagonal.double(), eager(captured, inputs), rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.usefixtures("uncompiled")
def test_threads_each_see_their_own_model():
    models = [model_of("llama") for _ in range(3)]
    inputs, caps, faults = batch(), {}, []

    def work(index: int) -> None:
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), attviz.capture(models[index]) as cap:
                models[index](**inputs)
            caps[index] = cap.diagonal
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    for index, model in enumerate(models):
        torch.testing.assert_close(caps[index].double(), eager(model, inputs), rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.usefixtures("uncompiled")
def test_between_samples_nothing_is_replaced():
    model, inputs = model_of("llama"), batch()
    with torch.no_grad(), attviz.capture(model, every=2, keep="all") as cap:
        model(**inputs)
        assert not functions.installed()
        model(**inputs)
        model(**inputs)
    assert len(cap.steps) == 2


@pytest.mark.parametrize("family", ["bart", "clip", "deepseek_v3", "whisper"])
def test_families_of_the_table_are_right(family):
    found = check_family(family, flex=True)[-1]
    if found.verdict == "unbuilt" and MAJOR < 5:
        pytest.skip(f"built with newer releases only: {found.note}")
    assert (found.path, found.verdict) == ("flex_attention", "right"), found
    assert {row.operator for row in found.recorded} == {"flex_attention"}


def test_compiled_flex_is_right():
    """The real thing, once: inductor's kernel on the CPU."""
    model, inputs = model_of("llama", num_hidden_layers=1), batch()
    with torch.no_grad():
        plain = model(**inputs).last_hidden_state
        with attviz.capture(model) as cap:
            captured = model(**inputs).last_hidden_state
    assert torch.equal(captured, plain)
    torch.testing.assert_close(cap.diagonal.double(), eager(model, inputs), rtol=0, atol=1e-6, equal_nan=True)
