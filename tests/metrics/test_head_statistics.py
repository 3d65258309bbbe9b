"""HeadStatistics against two passes over every value, under any cut, order and feeding."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import MetricError
from attviz.metrics import HeadStatistics, TokenStatistics
from attviz.records import DiagonalRecord


def assert_heads(streams, table, records, num_layers=2, num_heads=3):
    assert table.mean.shape == (num_layers, num_heads)
    for layer in range(num_layers):
        for head in range(num_heads):
            cell = (part[layer, head] for part in (table.count, table.mean, table.std, table.max, table.min))
            streams.assert_statistics(streams.values_of(records, layer, head), *cell)


def test_table_is_that_of_every_value_seen(streams):
    records = streams.make_stream(steps=5)
    table = streams.feed(HeadStatistics(), records).compute()
    assert_heads(streams, table, records)
    assert table.layers == ("layer.0", "layer.1")
    assert table.faults.sum() == 0


@given(steps=st.integers(1, 5), cuts=st.lists(st.integers(0, 10), max_size=4), order=st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_any_cut_and_merging_order_gives_the_same_table(streams, steps, cuts, order):
    records = streams.make_stream(steps=steps)
    edges = sorted({0, len(records), *(min(cut, len(records)) for cut in cuts)})
    shards = [streams.feed(HeadStatistics(), records[a:b]) for a, b in itertools.pairwise(edges)]
    order.shuffle(shards)
    total = shards.pop()
    for shard in shards:
        total.merge_state(shard if order.random() < 0.5 else shard.metric_state)
    assert_heads(streams, total.compute(), records)
    assert total.update_count == len(records)


def test_records_diagonals_and_layers_by_hand_agree(streams):
    records = [streams.make_record(index, padding=2) for index in range(2)]
    by_record = streams.feed(HeadStatistics(), records).compute()
    whole = HeadStatistics()
    whole.update(torch.stack([record.diagonal for record in records]))  # NaN in every head: padding
    several, layerwise = HeadStatistics(), HeadStatistics()
    several.update(tuple(records))
    for index, record in enumerate(records):
        layerwise.update(record.diagonal.nan_to_num(0.5), query_mask=record.query_mask, layer_index=index)
    for other in (whole, several, layerwise):
        for name in ("count", "mean", "std", "max", "min", "faults"):
            torch.testing.assert_close(getattr(other.compute(), name), getattr(by_record, name), rtol=0, atol=0)


def test_excluded_ids_leave_the_statistics(streams):
    records = streams.make_stream(steps=3)
    table = streams.feed(HeadStatistics(exclude_ids=[2, 5]), records).compute()
    kept = [streams.values_of(records, 1, 2, token) for token in range(11) if token not in (2, 5)]
    values = torch.cat([torch.from_numpy(part) for part in kept]).numpy()
    streams.assert_statistics(values, table.count[1, 2], table.mean[1, 2], table.std[1, 2], table.max[1, 2], table.min[1, 2])


def test_nan_and_infinity_at_real_tokens_are_counted_and_never_spread(streams):
    record = streams.make_record(0, padding=2)
    record.diagonal[0, 1, 3] = torch.nan
    record.diagonal[1, 2, 0] = torch.inf
    table = streams.feed(HeadStatistics(), [record]).compute()
    assert table.faults.tolist() == [[0, 1, 1]]
    assert table.count.tolist() == [[8, 7, 7]]
    assert table.mean.isfinite().all()


@pytest.mark.parametrize("batch", [0, 2])
def test_empty_and_all_padding_batches_change_nothing(streams, batch):
    metric = streams.feed(HeadStatistics(), streams.make_stream())
    before = metric._state.tensors()
    nothing = DiagonalRecord("layer.0", 0, 9, torch.full((batch, 3, 4), torch.nan), None, torch.zeros(batch, 4, dtype=torch.bool))
    metric.update(nothing)
    for name, tensor in metric._state.tensors().items():
        assert torch.equal(tensor, before[name]), name


def test_layers_with_fewer_heads_are_filled_with_nan(streams):
    records = [streams.make_record(0, num_heads=2), streams.make_record(1, num_heads=4)]
    table = streams.feed(HeadStatistics(), records).compute()
    assert table.mean[0].isnan().tolist() == [False, False, True, True]
    assert table.count[0].tolist() == [10, 10, 0, 0]
    frame = table.to_pandas()
    assert frame.loc[(frame.layer_index == 1) & (frame["head"] == 3), "mean"].item() == pytest.approx(table.mean[1, 3].item())
    assert list(frame.columns) == ["layer", "layer_index", "head", "count", "mean", "std", "max", "min", "faults"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_heads": 4}, r"layer 1 was 'layer.1' with num_heads=3 before and is 'layer.1' with num_heads=4 now.*two models"),
        ({"name": "decoder"}, r"'layer.1' with num_heads=3 before and is 'decoder.1'"),
    ],
)
def test_a_second_model_is_refused_and_the_state_is_unharmed(streams, other, message):
    metric = streams.feed(HeadStatistics(), streams.make_stream())
    before, count = metric.compute(), metric.update_count
    with pytest.raises(MetricError, match=message):
        metric.update([streams.make_record(0, 7), streams.make_record(1, 7, **other)])  # the first of the two would fit
    assert metric.update_count == count
    torch.testing.assert_close(metric.compute().count, before.count)
    with pytest.raises(MetricError, match=r"HeadStatistics.merge_state: layer 1"):
        metric.merge_state(streams.feed(HeadStatistics(), [streams.make_record(1, **other)]))
    torch.testing.assert_close(metric.compute().mean, before.mean, rtol=0, atol=0)


def test_update_reads_no_value_so_it_never_waits_for_a_device(streams):
    record = streams.make_record(0)
    metric = HeadStatistics(exclude_ids=[0])
    for step in range(2):  # the second one merges
        fake = DiagonalRecord("a", 0, step, *(t.to("meta") for t in (record.diagonal, record.token_ids, record.query_mask)))
        metric.update(fake)
    assert metric._state.moments["diagonal/0"].mean.device.type == "meta"


@pytest.mark.parametrize("value", [1e30, -0.1, 1.01, torch.inf])
@pytest.mark.parametrize("metric", [HeadStatistics, TokenStatistics])
def test_what_is_no_probability_is_refused_by_hand_and_a_fault_in_a_record(metric, value):
    diagonal = torch.tensor([[[0.25, value, 0.75]]])
    seen = metric()
    with pytest.raises(MetricError, match="a diagonal holds probabilities, but this one ranges from"):
        seen.update(diagonal)
    seen.update(DiagonalRecord("a", 0, 0, diagonal))
    faults = seen.compute().faults if metric is HeadStatistics else seen.faults
    assert int(faults.sum()) == 1
    assert float(seen.compute().mean.nan_to_num(0.5).sum()) == (0.5 if metric is HeadStatistics else 1.5)
