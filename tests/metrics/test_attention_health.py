"""AttentionHealth against dense float64 attention; its alarms, policies and what it refuses."""

import warnings
from dataclasses import replace

import pytest
import torch

from attviz.calls import DiagonalCall, FusedCall, SoftmaxCall
from attviz.errors import ArgumentError, AttentionAlarmError, AttentionAlarmWarning, EmptyMetricError, MetricError, ReadingError
from attviz.metrics import AttentionHealth
from attviz.readings import Tokens
from attviz.records import DiagonalRecord

BATCH, HEADS, KV_HEADS, LENGTH, DIM = 2, 4, 2, 6, 8
NAMES = ("row_entropy", "min_row_entropy", "max_logit", "first_token", "diagonal")


def padding_mask(side):
    mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    if side is not None:
        mask[1, slice(0, 2) if side == "left" else slice(-2, None)] = False
    return mask


def hidden(mask, is_causal):
    """True where key j is hidden from query i: [batch, 1, q_len, kv_len]."""
    seen = mask[:, None, None, :].expand(BATCH, 1, LENGTH, LENGTH)
    return ~(seen & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()) if is_causal else ~seen


def make_call(side=None, is_causal=False, *, as_bias=False, weights_only=False, sharpness=1.0, seed=0):
    """A call as an operator would see it, its record, and the dense float64 logits and weights."""
    generator = torch.Generator().manual_seed(seed)
    query = sharpness * torch.randn(BATCH, HEADS, LENGTH, DIM, generator=generator)
    key = torch.randn(BATCH, KV_HEADS, LENGTH, DIM, generator=generator)
    mask = padding_mask(side)
    unseen = hidden(mask, is_causal)
    scores = (0.3 * query.double() @ key.double().repeat_interleave(HEADS // KV_HEADS, 1).mT).masked_fill(unseen, -torch.inf)
    weights = scores.softmax(-1).nan_to_num(0)
    bias = torch.zeros(unseen.shape).masked_fill(unseen, torch.finfo(torch.float32).min) if side or as_bias else None
    logsumexp = scores.logsumexp(-1).float()
    if weights_only:
        call = SoftmaxCall("aten::_softmax", weights.float())
    else:
        call = FusedCall("op", query, key, logsumexp, scale=0.3, bias=bias, is_causal=is_causal and bias is None)
    diagonal = weights.diagonal(dim1=-2, dim2=-1).float().masked_fill(~mask[:, None], torch.nan)
    record = DiagonalRecord("layer.0", 0, 0, diagonal, torch.arange(LENGTH).expand(BATCH, -1), mask)
    return call, record, scores, weights


def feed(metric, call, record):
    """As the capture does: make the readings, and give the record with them."""
    tokens = Tokens(real=record.query_mask, real_keys=record.query_mask, ids=record.token_ids)
    readings, reasons = {}, {}
    for reading in metric.readings:
        try:
            readings[reading.name] = reading.read(call, tokens)
        except ReadingError as error:
            reasons[reading.name] = str(error)
    metric.update(replace(record, readings=readings, reasons=reasons))


def dense(record, scores, weights, head):
    """The five numbers of one head, row by row in float64."""
    entropies, choices, logits, first, diagonal = [], [], [], [], []
    for b in range(BATCH):
        start = int(record.query_mask[b].int().argmax())
        for i in range(LENGTH):
            if not record.query_mask[b, i]:
                continue
            row, logit = weights[b, head, i], scores[b, head, i]
            entropies.append(-sum(float(a) * float(a.log()) for a in row if a > 0))
            if int((logit > -torch.inf).sum()) > 1:
                choices.append(entropies[-1])
            logits.append(float(logit.max()))
            first.append(float(row[start]))
            diagonal.append(float(row[i]))
    count = len(entropies)
    return sum(entropies) / count, min(choices), max(logits), sum(first) / count, sum(diagonal) / count


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("side", "as_bias"), [(None, False), (None, True), ("left", True), ("right", True)])
@pytest.mark.parametrize("weights_only", [False, True])
def test_rows_agree_with_dense_float64_attention(is_causal, side, as_bias, weights_only):
    call, record, scores, weights = make_call(side, is_causal, as_bias=as_bias, weights_only=weights_only)
    metric = AttentionHealth(max_logit=None if weights_only else 100)
    feed(metric, call, record)
    table = metric.compute()
    assert table.rows.tolist() == [[int(record.query_mask.sum())] * HEADS]
    for head in range(HEADS):
        for name, expected in zip(NAMES, dense(record, scores, weights, head), strict=True):
            found = float(getattr(table, name)[0, head])
            if weights_only and name == "max_logit":
                assert found != found, "weights do not tell the logits"
            else:
                assert found == pytest.approx(expected, rel=2e-5, abs=2e-6), (name, head)


def test_per_layer_pools_the_heads():
    metric = AttentionHealth()
    for index in range(2):
        call, record, *_ = make_call("right", seed=index)
        feed(metric, call, DiagonalRecord(f"layer.{index}", index, 0, record.diagonal, record.token_ids, record.query_mask))
    table = metric.compute()
    layer = table.per_layer()
    torch.testing.assert_close(layer.row_entropy, table.row_entropy.mean(1))  # all heads see the same rows
    torch.testing.assert_close(layer.min_row_entropy, table.min_row_entropy.amin(1))
    torch.testing.assert_close(layer.max_logit, table.max_logit.amax(1))
    assert layer.per_layer() is layer
    assert list(layer.to_pandas().columns) == ["layer", "layer_index", "rows", *NAMES, "faults"]
    assert len(table.to_pandas()) == 2 * HEADS


def test_every_reads_each_nth_forward_only():
    metric = AttentionHealth(every_forwards=3)
    call, record, *_ = make_call()
    for step in range(7):
        seen = DiagonalRecord("layer.0", 0, step, record.diagonal, None, record.query_mask)
        if step % 3:
            metric.update(seen)  # as the capture does where the readings are not due
        else:
            feed(metric, call, seen)
    assert metric.update_count == 3


@pytest.mark.parametrize("level", ["layer", "head"])
def test_alarms_name_place_value_and_threshold(level):
    metric = AttentionHealth(min_entropy=0.3, max_logit=20, level=level, on_alarm="ignore")
    calm, record, *_ = make_call()
    feed(metric, calm, record)
    assert metric.check() == ()
    metric.reset()
    call, record, scores, _ = make_call(sharpness=60)
    feed(metric, call, record)
    alarms = metric.check()
    kinds = {(alarm.kind, alarm.head) for alarm in alarms}
    heads = [None] if level == "layer" else range(HEADS)
    assert kinds == {(kind, head) for kind in ("entropy collapse", "exploding logit") for head in heads}
    loudest = max(alarm.value for alarm in alarms if alarm.kind == "exploding logit")
    assert loudest == pytest.approx(float(scores.max()), rel=1e-5)
    assert all(alarm.layer == "layer.0" and alarm.layer_index == 0 for alarm in alarms)
    assert str(alarms[0]).startswith(f"entropy collapse in layer.0{'' if level == 'layer' else ' head 0'}: mean row entropy 0.")


def test_rows_with_nan_are_counted_left_out_and_an_alarm():
    call, record, *_ = make_call()
    call.query[0, 1, 2] = torch.nan
    record.diagonal[0, 1, 2] = torch.nan
    metric = AttentionHealth(on_alarm="ignore")
    feed(metric, call, record)
    table = metric.compute()
    assert table.faults.tolist() == [[0, 1, 0, 0]]
    assert table.rows.tolist() == [[12, 11, 12, 12]]
    assert table.row_entropy.isfinite().all()
    assert [str(alarm) for alarm in metric.check()] == ["1 NaN or infinite rows in layer.0"]


def test_the_user_chooses_what_an_alarm_does():
    call, record, *_ = make_call(sharpness=60)

    def alarmed(on_alarm):
        metric = AttentionHealth(max_logit=20, min_entropy=None, on_alarm=on_alarm)
        feed(metric, call, record)
        return metric

    with pytest.warns(AttentionAlarmWarning, match=r"exploding logit in layer.0: .* is above 20"):
        alarmed("warn").check()
    with pytest.raises(AttentionAlarmError, match=r"exploding logit in layer.0.*Lower the learning rate") as caught:
        alarmed("raise").check()
    assert caught.value.alarms[0].kind == "exploding logit"
    heard = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alarmed(heard.append).check()
        alarmed("ignore").check()
    assert [alarm.kind for alarm in heard[0]] == ["exploding logit"]


def test_states_save_merge_and_resume(tmp_path):
    records = [make_call("left", True, seed=seed) for seed in range(3)]
    whole, first, second = AttentionHealth(), AttentionHealth(), AttentionHealth()
    for place, (call, record, *_) in enumerate(records):
        feed(whole, call, record)
        feed(first if place < 2 else second, call, record)
    first.save_state(tmp_path / "health.safetensors")
    resumed = AttentionHealth()
    resumed.load_state(tmp_path / "health.safetensors")
    resumed.merge_state(second)
    for name in NAMES:
        torch.testing.assert_close(getattr(resumed.compute(), name), getattr(whole.compute(), name), rtol=1e-12, atol=0)


def test_update_reads_no_value_so_it_never_waits_for_a_device():
    call, record, *_ = make_call("left")
    to_meta = {name: getattr(call, name).to("meta") for name in ("query", "key", "logsumexp", "bias")}
    fake = DiagonalRecord("a", 0, 0, record.diagonal.to("meta"), None, record.query_mask.to("meta"))
    feed(AttentionHealth(), FusedCall("op", scale=0.3, **to_meta), fake)
    weights_only = SoftmaxCall("op", torch.rand(BATCH, HEADS, LENGTH, LENGTH, device="meta"))
    feed(AttentionHealth(max_logit=None), weights_only, fake)


def test_what_it_cannot_read_is_refused_by_name():
    call, record, *_ = make_call()
    metric = AttentionHealth()
    feed(metric, call, record)
    with pytest.raises(MetricError, match=r"needs attention rows, which a diagonal does not contain. Pass it to attviz.capture"):
        metric.update(record)
    assert metric.update_count == 1
    banded = AttentionHealth(max_logit=None)
    feed(banded, DiagonalCall("op", record.diagonal), record)
    assert "its softmax is banded" in banded.reasons["layer.0"]
    with pytest.raises(EmptyMetricError, match=r"no layer could provide.*layer.0: .*its softmax is banded"):
        banded.compute()
    for options, message in (
        ({"every_forwards": 0}, "every_forwards must be an integer"),
        ({"on_alarm": "shout"}, "on_alarm must be one of 'warn', 'raise', 'ignore', or a function"),
        ({"level": "model"}, "level must be one of 'layer', 'head'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            AttentionHealth(**options)
