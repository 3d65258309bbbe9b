"""TokenStatistics against the functions over the whole diagonal of the step."""

import pytest
import torch

from attviz.errors import ArgumentError, MetricError
from attviz.metrics import TokenStatistics, aggregate


def stacked(records):
    return torch.stack([record.diagonal for record in records])


def assert_like_aggregate(result, diagonal, **options):
    expected = aggregate(diagonal.double(), **options)
    for name in expected._fields:
        torch.testing.assert_close(result[name], expected[name], equal_nan=True, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("kind", ["table2", "binned", "shannon"])
@pytest.mark.parametrize("correction", [0, 1])
def test_layer_by_layer_gives_the_aggregates_of_the_step(streams, kind, correction):
    metric = TokenStatistics(kind=kind, correction=correction)
    records = [streams.make_record(index, padding=2) for index in range(3)]
    records[1].diagonal[0, 0, 0] = 0.0
    records[1].diagonal[0, :, 1] = 0.25  # equal values within a layer
    streams.feed(metric, records)
    assert_like_aggregate(metric.compute(), stacked(records), kind=kind, correction=correction)


def test_the_next_forward_starts_over(streams):
    metric = TokenStatistics()
    for step in range(3):
        records = [streams.make_record(index, step, padding=step) for index in range(2)]
        streams.feed(metric, records)
        assert_like_aggregate(metric.compute(), stacked(records))
    again = [streams.make_record(index, 2, seed=5 + index, q_len=7) for index in range(2)]  # a new capture counts from its own start
    streams.feed(metric, again)
    assert_like_aggregate(metric.compute(), stacked(again))


def test_faults_are_left_out_and_counted(streams):
    records = [streams.make_record(index) for index in range(2)]
    records[1].diagonal[0, 2, 3] = torch.nan
    metric = streams.feed(TokenStatistics(), records)
    assert metric.faults.tolist() == [[0, 0, 0, 1, 0], [0] * 5]
    clean = torch.cat([records[0].diagonal[:1, :, 3:4], records[1].diagonal[:1, :2, 3:4]], 1)
    assert_like_aggregate(type(metric.compute())(*(part[:1, 3:4] for part in metric.compute())), clean)


def test_two_values_of_one_layer_that_are_equal_count_once(streams):
    metric = TokenStatistics()
    metric.update(torch.tensor([[[0.5], [0.5], [0.25]]]))
    assert metric.compute().entropy.item() == pytest.approx(aggregate(torch.tensor([[[0.5], [0.5], [0.25]]])).entropy.item())


def test_layers_of_other_tokens_are_refused_and_the_step_is_kept(streams):
    metric = streams.feed(TokenStatistics(), [streams.make_record(0)])
    before = metric.compute()
    with pytest.raises(MetricError, match=r"layer 1 \(layer.1\) has batch=2 q_len=9, the layers before it batch=2 q_len=5"):
        metric.update(streams.make_record(1, q_len=9))
    with pytest.raises(MetricError, match="steps 1 and 2 together"):
        metric.update([streams.make_record(0, 1), streams.make_record(0, 2)])
    assert torch.equal(metric.compute().mean, before.mean)


def test_one_step_is_not_a_state_to_save(streams, tmp_path):
    metric = streams.feed(TokenStatistics(), [streams.make_record(0)])
    with pytest.raises(MetricError, match="holds only one step"):
        metric.save_state(tmp_path / "state.safetensors")


def test_wrong_options_are_refused():
    with pytest.raises(ArgumentError, match="kind must be one of 'table2', 'binned', 'shannon'"):
        TokenStatistics(kind="gini")
    with pytest.raises(ArgumentError, match="correction must be at least 0, got -1"):
        TokenStatistics(correction=-1)


def test_update_reads_no_value_so_it_never_waits_for_a_device():
    for kind in ("table2", "binned", "shannon"):
        metric = TokenStatistics(kind=kind)
        for index in range(2):
            metric.update(torch.rand(2, 3, 4, device="meta"), layer_index=index)
        assert metric.compute().entropy.shape == (2, 4)
