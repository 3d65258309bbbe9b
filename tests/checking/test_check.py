"""``attviz.check`` verifies what is right, finds what is not, and leaves everything as it was."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel, DynamicCache, LlamaConfig, LlamaModel, T5Config, T5Model

import attviz
from attviz import Capture
from attviz.errors import ArgumentError
from tests.tiny import Encoder, hook_counts

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TOKENS, PADDING = 9, 3


@pytest.fixture
def texts():
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[1, TOKENS - PADDING :] = 0
    return {"input_ids": torch.randint(3, 99, (2, TOKENS)), "attention_mask": mask}


@pytest.fixture
def bert_model():
    return BertModel(BertConfig(**SIZES), add_pooling_layer=False).eval()


# ---- what is right is verified


@pytest.mark.parametrize(
    "kwargs", [{}, {"by_hand": True}, {"causal": True}, {"num_kv_heads": 2}, {"by_hand": True, "causal": True}], ids=str
)
def test_hand_written_models_are_verified(kwargs):
    check = attviz.check(Encoder(**kwargs), torch.randn(2, 7, 32))
    assert check.ok, check
    assert [row.layer for row in check.layers] == [f"blocks.{number}.attention" for number in range(3)]
    assert all(row.error < 1e-6 for row in check.layers)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers makes block masks, and torch imports its compiler, by old names
@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_verified(bert_model, texts, implementation, side):
    bert_model.set_attn_implementation(implementation)
    mask = texts["attention_mask"] if side == "right" else texts["attention_mask"].flip(1)
    assert attviz.check(bert_model, texts["input_ids"], attention_mask=mask).ok


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_verified(texts, dtype):
    model = LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2)).to(dtype)
    check = attviz.check(model, **texts)
    assert check.ok, check
    assert max(row.error for row in check.layers) > 0.0  # compared with float64, not with itself


def test_encoder_decoder_has_cross_attention_without_own_keys(texts):
    model = T5Model(T5Config(d_model=32, d_kv=8, num_heads=4, num_layers=2, d_ff=48, vocab_size=99))
    check = attviz.check(model, **texts, decoder_input_ids=texts["input_ids"])
    assert check.ok, check
    cross = [row for row in check.layers if row.shape is None]
    assert [row.layer for row in cross] == [f"decoder.block.{number}.layer.1.EncDecAttention" for number in range(2)]
    assert len(check.layers) == 6


@pytest.mark.filterwarnings("ignore:.*nested tensors")  # once in a process, whichever test comes first
@pytest.mark.parametrize("padded", [False, True])
def test_fast_path_of_torch_is_verified(padded):
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[1, 5:] = padded
    check = attviz.check(nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 7, 32), src_key_padding_mask=mask if padded else None)
    assert check.ok, check


# ---- what is wrong is found


def planted(monkeypatch, change):
    """A capture with a fault: ``change`` gets the records of a forward and gives others."""
    right = Capture.records.fget
    monkeypatch.setattr(Capture, "records", property(lambda cap: tuple(change(list(right(cap))))))


def with_diagonal(record, diagonal):
    return dataclasses.replace(record, diagonal=diagonal)


def other_layer(records):
    return [with_diagonal(record, records[0].diagonal) for record in records]


def other_head(records):
    return [with_diagonal(record, record.diagonal.roll(1, 1)) for record in records]


def other_token(records):
    return [with_diagonal(record, record.diagonal.roll(1, 2)) for record in records]


def other_text(records):
    return [with_diagonal(record, record.diagonal.flip(0)) for record in records]


def slightly_off(records):
    return [with_diagonal(record, record.diagonal + 1e-4) for record in records]


def no_number(records):
    hole = records[0].diagonal.clone()
    hole[0, :, 2] = float("nan")
    return [with_diagonal(records[0], hole), *records[1:]]


def number_for_padding(records):
    return [with_diagonal(record, record.diagonal.nan_to_num(0.0)) for record in records]


def lost(records):
    return records[1:]


@pytest.mark.parametrize("fault", [other_layer, other_head, other_token, other_text, slightly_off, no_number, number_for_padding, lost])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_planted_fault_is_found(monkeypatch, bert_model, texts, fault, implementation):
    bert_model.set_attn_implementation(implementation)
    planted(monkeypatch, fault)
    check = attviz.check(bert_model, **texts)
    assert not check.ok
    assert check.of("differs"), check


def test_a_wrong_name_is_not_verified(monkeypatch):
    planted(
        monkeypatch,
        lambda records: [dataclasses.replace(record, layer=f"blocks.{1 - number}.attention") for number, record in enumerate(records)],
    )
    assert attviz.check(Encoder(2), torch.randn(2, 7, 32)).of("differs")
    planted(monkeypatch, lambda records: [dataclasses.replace(record, layer=None) for record in records])
    assert attviz.check(Encoder(2), torch.randn(2, 7, 32)).of("could not tell")


class Cross(nn.Module):
    """Queries from one sequence, keys from another of the same length."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x, memory):
        query, key = self.query(x).unflatten(-1, (4, 8)).transpose(1, 2), self.key(memory).unflatten(-1, (4, 8)).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, key).transpose(1, 2).flatten(2)


def test_cross_attention_that_is_recorded_differs(monkeypatch):
    """Whatever the capture decides: a diagonal of cross-attention is not verified."""
    from attviz.records import DiagonalRecord

    monkeypatch.setattr(Capture, "skipped", property(lambda cap: {}))
    monkeypatch.setattr(Capture, "steps", property(lambda cap: ((1,),)))
    monkeypatch.setattr(Capture, "records", property(lambda cap: (DiagonalRecord("", 0, 0, torch.rand(2, 4, 7)),)))
    check = attviz.check(Cross(), torch.randn(2, 7, 32), torch.randn(2, 7, 32))
    assert [row.status for row in check.layers] == ["differs"]
    assert "no own key" in check.layers[0].evidence


def test_one_key_that_all_queries_share_is_nobodys_own():
    class Prompted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key = nn.Linear(32, 32)

        def forward(self, x, prompt):
            key = self.key(prompt)
            return F.scaled_dot_product_attention(x, key, key)

    class Prompts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.cross_attention = Encoder(), Prompted()

        def forward(self, x, prompt):
            return self.cross_attention(self.encoder(x)[:, None], prompt)

    check = attviz.check(Prompts().eval(), torch.randn(2, 6, 32), torch.randn(2, 1, 1, 32))
    assert check.ok, check


class Channels(nn.Module):
    """Attention of channels to channels, with as many channels to a head as there are tokens."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(32, 96)

    def forward(self, x):
        query, key, value = (part.unflatten(-1, (4, 8)).permute(0, 2, 3, 1) for part in self.qkv(x).chunk(3, -1))
        return ((query @ key.mT).softmax(-1) @ value).permute(0, 3, 1, 2).flatten(2)


def test_attention_of_channels_is_never_verified():
    check = attviz.check(nn.Sequential(Channels()), torch.randn(2, 8, 32))
    assert not any(row.status == "verified" and row.shape is not None for row in check.layers)


class HeadsFirst(nn.Module):
    """[heads, batch, queries, keys], with as many heads as texts."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(32, 96)

    def forward(self, x):
        query, key, value = (part.unflatten(-1, (4, 8)).permute(2, 0, 1, 3) for part in self.qkv(x).chunk(3, -1))
        return ((query @ key.mT * 8**-0.5).softmax(-1) @ value).permute(1, 2, 0, 3).flatten(2)


def test_axes_are_found_by_disturbing_tokens_not_by_sizes(monkeypatch):
    """Four heads and four texts: sizes say nothing. The right order is verified, the other is not."""
    from attviz.records import DiagonalRecord

    model, x = HeadsFirst(), torch.randn(4, 7, 32)
    query, key, _ = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in model.qkv(x).chunk(3, -1))
    right = (query @ key.mT * 8**-0.5).softmax(-1).diagonal(0, -2, -1).detach()
    monkeypatch.setattr(Capture, "steps", property(lambda cap: ((1,),)))
    for diagonal, status in ((right, "verified"), (right.transpose(0, 1).contiguous(), "differs")):
        monkeypatch.setattr(Capture, "records", property(lambda cap, diagonal=diagonal: (DiagonalRecord("", 0, 0, diagonal),)))
        monkeypatch.setattr(Capture, "skipped", property(lambda cap: {}))
        assert [row.status for row in attviz.check(model, x).layers] == [status]


def test_changed_outputs_are_found(monkeypatch):
    """A capture that touches the numbers of the model is found out."""
    enter = Capture.__enter__

    def meddling(cap):
        opened = enter(cap)
        cap._handle = cap._model.register_forward_hook(lambda module, args, output: output + 1e-6)
        return opened

    leave = Capture.__exit__
    monkeypatch.setattr(Capture, "__enter__", meddling)
    monkeypatch.setattr(Capture, "__exit__", lambda cap, *error: (cap._handle.remove(), leave(cap, *error))[1])
    check = attviz.check(Encoder(), torch.randn(2, 7, 32))
    assert not check.outputs_identical
    assert not check.ok
    assert "OUTPUTS CHANGED" in str(check)


# ---- it stands by itself, and leaves everything as it was


def test_the_reference_shares_no_code_with_what_it_checks():
    """It knows the surface of the capture, records and errors: nothing of the rooms in which the numbers are made."""
    import attviz.checking

    allowed = {"attviz._capture", "attviz.errors", "attviz.records"}
    for path in Path(attviz.checking.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            for name in names:
                assert not name.startswith("attviz") or name.startswith("attviz.checking") or name in allowed, f"{path.name}: {name}"


class Counting(nn.Module):
    """Counts its forwards in a buffer, keeps its last output, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.encoder, self.dropout = Encoder(2), nn.Dropout(0.5)
        self.register_buffer("forwards", torch.zeros(1))

    def forward(self, x):
        self.forwards += 1
        self.last = self.encoder(x + 1e-3 * torch.randn_like(x))
        return self.dropout(self.last)


def test_model_mode_random_numbers_and_buffers_stay(texts):
    model, x = Counting().train(), torch.randn(2, 7, 32)
    model.encoder.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    weights, hooks, given = {name: value.clone() for name, value in model.state_dict().items()}, hook_counts(model), x.clone()
    state = torch.get_rng_state()
    assert attviz.check(model, x).ok
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not hasattr(model, "last")
    assert hook_counts(model) == hooks
    assert torch.equal(x, given)


def test_a_cache_that_is_passed_is_not_filled():
    name = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"  # by the version of transformers
    model, cache = LlamaModel(LlamaConfig(**SIZES)).eval(), DynamicCache()
    ids = torch.randint(3, 99, (2, 7))
    model(ids[:, :2], **{name: cache})
    assert attviz.check(model, ids[:, 2:], attention_mask=torch.ones(2, 7, dtype=torch.long), **{name: cache}).ok
    assert cache.get_seq_length() == 2


def test_an_error_of_the_model_passes_and_nothing_stays():
    model, before = Encoder(), hook_counts(Encoder())
    model.train()
    with pytest.raises(RuntimeError):
        attviz.check(model, torch.randn(2, 7, 31))
    assert model.training
    assert hook_counts(model) == before
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_bad_calls_say_what_to_do():
    with pytest.raises(ArgumentError, match=r"must be a torch.nn.Module, got str"):
        attviz.check("bert")
    with pytest.raises(ArgumentError, match="pass the inputs of Encoder"):
        attviz.check(Encoder())


def test_the_table_names_every_layer():
    check = attviz.check(Encoder(), torch.randn(2, 7, 32))
    assert repr(check) == "<Check Encoder: ok, 3 verified, outputs bit-identical>"
    for number in range(3):
        assert f"blocks.{number}.attention" in str(check)
    assert "changes its row and its key only" in str(check)


class Elsewhere(nn.Module):
    """Attention of which no diagonal can be told: keys in another order, heads mixed behind the softmax."""

    def __init__(self, how):
        super().__init__()
        self.q, self.k, self.v, self.how = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32), how

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (4, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.how == "fused":
            return nn.functional.scaled_dot_product_attention(q, k.flip(2), v.flip(2)).transpose(1, 2).flatten(2)
        weights = (q @ k.mT).softmax(-1)
        if self.how == "mixed":
            weights = torch.einsum("bhij,hg->bgij", weights, torch.ones(4, 4))
        return (weights.flip(-1) @ v if self.how == "turned" else weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("how", ["fused", "mixed", "turned"])
def test_what_the_capture_could_not_tell_is_not_ok(how):
    check = attviz.check(nn.Sequential(Elsewhere(how)).eval(), torch.randn(2, 7, 32))
    assert not check.ok, check
    (row,) = check.of("could not tell")
    assert row.layer == "0"
    assert "the capture says" in row.evidence
