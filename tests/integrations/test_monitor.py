"""AttentionMonitor around a plain training loop."""

import math

import pytest
import torch

import attviz
from attviz.errors import ArgumentError, AttentionAlarmError, CaptureError, CaptureWarning
from attviz.integrations import AttentionMonitor
from attviz.metrics import AttentionHealth, HeadStatistics, VocabularyStatistics

QUANTITIES = ("row_entropy", "min_row_entropy", "max_logit", "first_token", "diagonal")


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def train(model, data, monitor, steps=5):
    """Five steps of a plain loop; give the values of each."""
    optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.1), []
    for step in range(steps):
        batch = {key: torch.stack([text[key] for text in data[2 * step : 2 * step + 2]]) for key in data[0]}
        with monitor.watch(model, step):
            model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(dict(monitor.values))
        assert hooks(model) == 0
    return seen


def test_every_nth_step_gives_five_numbers_a_layer(tiny_model, tiny_data):
    monitor = AttentionMonitor(every=2)
    seen = train(tiny_model, tiny_data, monitor)
    expected = {f"attviz/{name}/layer_{index:02d}" for name in QUANTITIES for index in range(2)} | {"attviz/alarms"}
    assert [set(values) for values in seen] == [expected, set(), expected, set(), expected]
    assert {name: table.shape for name, table in monitor.heads.items()} == dict.fromkeys(QUANTITIES, (2, 4))
    uniform = sum(math.log(n) for n in range(1, 11)) / 10
    assert seen[0]["attviz/row_entropy/layer_00"] == pytest.approx(uniform, abs=0.3)  # an untrained model attends to all keys alike


def test_keys_do_not_grow_with_layers_per_model(tiny_model, tiny_data):
    seen = train(tiny_model, tiny_data, AttentionMonitor(every=4, per="model"))
    assert set(seen[0]) == {*(f"attviz/{name}" for name in QUANTITIES), "attviz/alarms"}


def test_training_is_the_same_to_the_last_bit_when_watched(tiny_model, tiny_data):
    import copy

    watched = copy.deepcopy(tiny_model)
    train(watched, tiny_data, AttentionMonitor(every=1))
    train(tiny_model, tiny_data, AttentionMonitor(every=10**6))
    for left, right in zip(watched.parameters(), tiny_model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_further_metrics_are_fed_and_keep_what_they_saw(tiny_model, tiny_data):
    words = VocabularyStatistics(by="head")
    train(tiny_model, tiny_data, AttentionMonitor(every=2, metrics=words))
    table = words.compute()
    assert table.mean.shape == (2, 4, 32)  # the vocabulary was read off the model
    real = sum(int(text["attention_mask"].sum()) for text in tiny_data[0:2] + tiny_data[4:6] + tiny_data[8:10])
    assert table.count[0, 0].sum() == real


@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_metrics_of_a_wholly_compiled_model_are_fed_what_the_eager_one_gives(tiny_model, tiny_data):
    batch = {key: torch.stack([text[key] for text in tiny_data[:2]]) for key in tiny_data[0]}
    seen = []
    for compiled in (False, True):
        called = torch.compile(tiny_model, backend="aot_eager") if compiled else tiny_model
        monitor = AttentionMonitor(every=1, strict=True, run_compiled=compiled, metrics=[heads := HeadStatistics()])
        for step in range(2):  # the second forward is not located on the stack
            with monitor.watch(called, step):
                called(**batch)
        seen.append((monitor.values, heads.compute()))
    (eager, eager_heads), (found, found_heads) = seen
    assert found == pytest.approx(eager, rel=1e-5, abs=1e-6)
    assert torch.equal(found_heads.count, eager_heads.count)
    torch.testing.assert_close(found_heads.mean, eager_heads.mean, rtol=1e-5, atol=1e-7)


def test_there_is_one_clock():
    with pytest.raises(ArgumentError, match="every_forwards=3 of AttentionHealth would be a second clock. Omit it"):
        AttentionMonitor(every=1, health=AttentionHealth(every_forwards=3))


def test_a_step_in_several_batches_is_read_once_and_what_runs_between_them_is_not_seen(tiny_model, tiny_data):
    monitor, counted = AttentionMonitor(every=1, metrics=[metric := HeadStatistics()]), []
    batch = {key: torch.stack([text[key] for text in tiny_data[1:3:2]]) for key in tiny_data[0]}
    for step, last in ((1, False), (1, True), (2, True)):
        monitor.begin(tiny_model, step)
        tiny_model(**batch)
        monitor.end() if last else monitor.pause()
        assert hooks(tiny_model) == 0
        tiny_model(**batch)  # an evaluation
        counted.append((int(metric.compute().count[0, 0]), bool(monitor.values)))
    assert counted == [(10, False), (20, True), (30, True)]


@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
@pytest.mark.parametrize("how", ["wrapped", "a layer"])
def test_a_compiled_model_with_dropout_is_captured(tiny_model, tiny_data, how):
    """Its compiled code has no attention operator left: decomposed as inductor does, without its compiler."""
    backend = "aot_eager_decomp_partition"
    for layer in tiny_model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    called = tiny_model
    if how == "wrapped":
        called = torch.compile(tiny_model, backend=backend)
    else:
        tiny_model.model.layers[0].compile(backend=backend)
    batch = {key: torch.stack([text[key] for text in tiny_data[:2]]) for key in tiny_data[0]}
    monitor, compiled = AttentionMonitor(every=2, strict=True), torch._dynamo.utils.counters["stats"]
    for step in range(4):
        with monitor.watch(called, step):
            called(**batch).loss.backward()
        assert ("attviz/row_entropy/layer_01" in monitor.values) == (step % 2 == 0)
        assert not any(math.isnan(value) for value in monitor.values.values())
    assert compiled["unique_graphs"] > 0  # the steps between did run compiled
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:capture. no self-attention")
def test_the_compiled_code_can_be_kept(tiny_model, tiny_data):
    tiny_model.compile(backend="aot_eager_decomp_partition")
    for layer in tiny_model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    batch = {key: torch.stack([text[key] for text in tiny_data[:2]]) for key in tiny_data[0]}
    with pytest.warns(CaptureWarning, match="nothing was captured in this step.*With run_compiled=True a compiled model may show no"):
        with AttentionMonitor(every=1, run_compiled=True).watch(tiny_model, 0):
            tiny_model(**batch)
    with AttentionMonitor(every=1, strict=True).watch(tiny_model, 0):  # the cure of the message
        tiny_model(**batch)
    with pytest.raises(CaptureError, match="SDPA with dropout on a CPU") as missed, attviz.capture(tiny_model):
        tiny_model(**batch)
    assert 'with torch.compiler.set_stance("force_eager"): model(...)' in str(missed.value)
    with torch.compiler.set_stance("force_eager"), attviz.capture(tiny_model) as cap:  # the cure of that one
        tiny_model(**batch)
    assert len(cap.records) == 2


def test_an_alarm_can_end_the_run_and_leaves_the_model_clean(tiny_model, tiny_data):
    monitor = AttentionMonitor(every=2, health=AttentionHealth(min_entropy=50, on_alarm="raise"))
    with pytest.raises(AttentionAlarmError, match=r"entropy collapse in model.layers.0.self_attn"):
        train(tiny_model, tiny_data, monitor)
    assert hooks(tiny_model) == 0
    assert monitor.values["attviz/row_entropy/layer_00"] < 50  # what raised it can still be read


def test_a_failing_step_leaves_nothing_on_the_model_and_no_complaint(tiny_model, tiny_data):
    monitor = AttentionMonitor(every=1)
    with pytest.raises(ZeroDivisionError), monitor.watch(tiny_model, 0):
        raise ZeroDivisionError
    assert hooks(tiny_model) == 0
    assert train(tiny_model, tiny_data, monitor, steps=1)[0]


def test_a_step_without_attention_warns_and_training_goes_on():
    monitor = AttentionMonitor(every=1)
    model = torch.nn.Linear(2, 2)
    with pytest.warns(CaptureWarning), monitor.watch(model, 0):
        model(torch.ones(1, 2))
    assert monitor.values == {}
    with pytest.warns(CaptureWarning, match="nothing was captured in this step. Watch the model whose forward runs"):
        with monitor.watch(model, 0):
            pass  # the model that runs is another one
    assert monitor.values == {}


def test_wrong_options_are_refused():
    with pytest.raises(ArgumentError, match="every must be an integer"):
        AttentionMonitor(every=0)
    with pytest.raises(ArgumentError, match="per must be one of 'layer', 'model'"):
        AttentionMonitor(per="head")
    with pytest.raises(ArgumentError, match="keep is set by the monitor itself"):
        AttentionMonitor(keep="all")
    with pytest.raises(ArgumentError, match="unknown option evry"):
        AttentionMonitor(evry=5)
