"""Streaming metrics over any per-token reading, and AttentionHealth on every kind of kernel, against dense float64 attention."""

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import attviz
from attviz.errors import ArgumentError, AttentionAlarmWarning, EmptyMetricError, MetricError
from attviz.metrics import AttentionHealth, HeadStatistics, TokenStatistics, VocabularyStatistics
from attviz.readings import At, MaxLogit, Offset, RowEntropy, Rows

IDS = torch.tensor([[5, 7, 8, 6, 9, 7], [5, 7, 6, 4, 0, 0]])
MASK = (IDS != 0).long()


def llama(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": 12}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, use_cache=False, **options))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 20  # rows that differ
            layer.self_attn.k_proj.weight *= 20
    return model.eval()


def run(model, metrics, **options):
    with torch.no_grad(), attviz.capture(model, metrics=metrics, keep="none", **options):
        model(input_ids=IDS, attention_mask=MASK)


def attentions(model, **inputs):
    """Weights of every layer in float64, ``[num_layers, batch, num_heads, q_len, kv_len]``."""
    import copy

    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("eager")
    with torch.no_grad():
        return torch.stack(exact.eval()(**inputs, output_attentions=True).attentions)


@pytest.fixture(scope="module")
def model():
    return llama()


@pytest.fixture(scope="module")
def weights(model):
    return attentions(model, input_ids=IDS, attention_mask=MASK)


def test_statistics_of_a_reading_are_those_of_its_numbers(model, weights):
    previous, entropy = Offset(-1, name="previous"), RowEntropy()
    heads, words, tokens = HeadStatistics(reading=previous), VocabularyStatistics(reading=entropy), TokenStatistics(reading=previous)
    run(model, [heads, words, tokens])
    real = MASK.bool().clone()
    expected = weights.diagonal(-1, -2, -1)  # of queries from the second on
    for layer in range(2):
        for head in range(4):
            values = expected[layer, :, head][real[:, 1:]]
            assert heads.compute().count[layer, head] == len(values) == 8  # the first token has no key before it
            torch.testing.assert_close(heads.compute().mean[layer, head], values.mean(), rtol=1e-5, atol=0)
            torch.testing.assert_close(heads.compute().std[layer, head], values.std(), rtol=1e-4, atol=0)
    assert int(heads.compute().faults.sum()) == 0
    rows = torch.special.entr(weights).sum(-1)[1].transpose(1, 2)[IDS == 7]  # [occurrences, num_heads] of token 7, last layer
    torch.testing.assert_close(words.compute().mean[1, 7], rows.mean(), rtol=1e-5, atol=0)
    assert words.compute().max[1, 7] > 1  # nats, no probability
    torch.testing.assert_close(tokens.compute().mean[0, 1:], expected[:, 0].mean((0, 1)), rtol=1e-5, atol=0)
    assert tokens.compute().mean[0, 0].isnan()


def test_a_reading_in_other_units_has_no_entropy_over_heads(model):
    logits = TokenStatistics(reading=MaxLogit())
    with torch.no_grad(), attviz.capture(model, metrics=logits, keep="none"):
        model(input_ids=IDS, attention_mask=MASK)
    found = logits.compute()
    assert found.max[0].isfinite().all()
    assert found.entropy.isnan().all()


def test_the_name_of_a_reading_that_the_capture_is_asked_for_will_do(model):
    by_name, by_object = HeadStatistics(reading="before"), HeadStatistics(reading=Offset(-1, name="before"))
    with torch.no_grad(), attviz.capture(model, read=[Offset(-1, name="before")], metrics=[by_name, by_object], keep="none"):
        model(input_ids=IDS, attention_mask=MASK)
    assert torch.equal(by_name.compute().mean, by_object.compute().mean)
    forgotten = HeadStatistics(reading="befor")
    with torch.no_grad(), attviz.capture(model, metrics=forgotten, keep="none"):
        model(input_ids=IDS, attention_mask=MASK)
    with pytest.raises(EmptyMetricError, match=r"no record had the reading 'befor'. Pass the reading itself"):
        forgotten.compute()


def test_metrics_of_different_readings_do_not_merge_and_states_tell_them_apart(model, tmp_path):
    one, other = HeadStatistics(reading=Offset(-1)), HeadStatistics()
    with torch.no_grad(), attviz.capture(model, metrics=[one, other], keep="none"):
        model(input_ids=IDS, attention_mask=MASK)
    with pytest.raises(MetricError, match="cannot merge"):
        one.merge_state(other)
    one.save_state(tmp_path / "one.safetensors")
    with pytest.raises(MetricError, match="holds the state of"):
        HeadStatistics().load_state(tmp_path / "one.safetensors")
    again = HeadStatistics(reading=Offset(-1))
    again.load_state(tmp_path / "one.safetensors")
    assert torch.equal(again.compute().mean, one.compute().mean)


def test_what_is_no_number_per_token_is_refused(model):
    with pytest.raises(ArgumentError, match="HeadStatistics: reading= must be an attviz.readings object or the name of one, got 3"):
        HeadStatistics(reading=3)
    with pytest.raises(ArgumentError, match="AttentionHealth: chooses its own readings"):
        AttentionHealth(reading=Offset(-1))
    with pytest.raises(ArgumentError, match=r"reading='rows\(-1\)' has more than one number per token. Use one such as Offset"):
        HeadStatistics(reading=Rows(-1))
    with pytest.raises(MetricError, match=r"the reading 'rows\(-1\)' has shape .* it needs one number per token"):
        run(model, HeadStatistics(reading="rows(-1)"), read=Rows(-1))


def test_a_layer_that_cannot_give_a_reading_is_named_with_its_reason(model):
    wrong = HeadStatistics(reading=At(torch.zeros(2, 9, dtype=torch.long)))
    with torch.no_grad(), attviz.capture(model, metrics=wrong, keep="none"):
        model(input_ids=IDS, attention_mask=MASK)
    assert len(wrong.reasons) == 2
    with pytest.raises(EmptyMetricError, match=r"no layer could provide 'at'. model.layers.0.self_attn: its index of shape \(2, 9\)"):
        wrong.compute()


def expected_health(weights):
    real = MASK.bool()
    entropy = torch.special.entr(weights).sum(-1)
    first = weights[..., 0]
    means = [value.transpose(2, 3)[:, real].mean(1) for value in (entropy, first, weights.diagonal(0, -2, -1))]
    return dict(zip(("row_entropy", "first_token", "diagonal"), means, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of flex_attention about its own compiler
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kind", ["sdpa", "eager", "flex_attention", "dropout in training"])
def test_health_reads_every_kernel_with_the_logits_that_went_into_it(weights, kind):
    model = llama(attention_dropout=0.5)
    model.set_attn_implementation("sdpa" if kind == "dropout in training" else kind)
    if kind == "dropout in training":
        model.train()
    health = AttentionHealth(on_alarm="ignore")
    with torch.no_grad(), attviz.capture(model, metrics=health, keep="none"):
        model(input_ids=IDS, attention_mask=MASK)
    table = health.compute()
    expected = expected_health(weights)
    layers = 1 if kind == "dropout in training" else 2  # what is dropped changes the layers above
    for name, values in expected.items():
        torch.testing.assert_close(getattr(table, name)[:layers], values[:layers], rtol=2e-5, atol=1e-6)
    reference = AttentionHealth(on_alarm="ignore")
    plain = llama()
    with torch.no_grad(), attviz.capture(plain, metrics=reference, keep="none"):
        plain(input_ids=IDS, attention_mask=MASK)
    torch.testing.assert_close(table.max_logit[:layers], reference.compute().max_logit[:layers], rtol=1e-5, atol=1e-5)


def test_health_of_packed_texts_is_that_of_the_texts_alone():
    model = llama()
    parts = [torch.tensor([[5, 7, 8, 6, 9]]), torch.tensor([[5, 7, 6]])]
    positions = torch.cat([torch.arange(part.shape[1]) for part in parts])[None]
    together, alone = AttentionHealth(on_alarm="ignore"), AttentionHealth(on_alarm="ignore")
    with torch.no_grad(), attviz.capture(model, metrics=together, keep="none"):
        model(input_ids=torch.cat(parts, 1), position_ids=positions)
    with torch.no_grad(), attviz.capture(model, metrics=alone, keep="none"):
        for part in parts:
            model(input_ids=part)
    for name in ("row_entropy", "min_row_entropy", "first_token", "max_logit", "diagonal"):
        torch.testing.assert_close(getattr(together.compute(), name), getattr(alone.compute(), name), rtol=1e-4, atol=1e-5)


def test_where_logits_are_not_shown_a_word_says_so_once_and_the_rest_is_read():
    """gpt-oss puts a learned sink beside the keys and shifts its logits before the softmax."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 12}
    model = GptOssForCausalLM(GptOssConfig(**sizes, intermediate_size=16, num_local_experts=2, num_experts_per_tok=1)).eval()
    model.set_attn_implementation("eager")
    health = AttentionHealth(on_alarm="ignore")
    with pytest.warns(AttentionAlarmWarning, match="no largest logit in model.layers.0.self_attn: .*on max_logit cannot fire") as told:
        run(model, health)
    assert len([one for one in told if "no largest logit" in str(one.message)]) == 1
    assert health.compute().row_entropy.isfinite().all()
    assert health.compute().max_logit.isnan().all()
    run(model, AttentionHealth(on_alarm="ignore", max_logit=None))


def test_sinks_and_dormant_heads_raise_their_alarms():
    model = llama()
    with torch.no_grad():
        for layer in model.model.layers:  # every query looks at the first token, whose key is long
            layer.self_attn.q_proj.weight.zero_()
            layer.self_attn.k_proj.weight.zero_()
    even = AttentionHealth(max_first_token=0.9, max_dormant=0.1)
    with torch.no_grad(), attviz.capture(model, metrics=even, keep="none"):
        model(input_ids=IDS[:1])
    assert even.check() == ()
    record = attviz.records.DiagonalRecord("a", 0, 0, torch.rand(1, 4, 3))
    first = torch.tensor([[[0.95] * 3, [0.99] * 3, [0.2] * 3, [0.1] * 3]])
    ones = torch.ones(1, 4, 3)
    readings = {"row_entropy": ones, "max_logit": ones, "keys(first=1)": first, "visible": 3 * ones}
    health = AttentionHealth(max_first_token=0.5, max_dormant=0.25, on_alarm="ignore", level="head")
    health.update(dataclasses.replace(record, readings=readings))
    assert health.compute().dormant().tolist() == [0.5]
    assert [(alarm.kind, alarm.head) for alarm in health.check()] == [("dormant heads", None), ("attention sink", 0), ("attention sink", 1)]
    assert str(health.check()[0]) == "dormant heads in a: 50% of them, more than 25%"
    assert str(health.check()[1]).startswith("attention sink in a head 0: mean weight on the first token 0.95 is above 0.5")
