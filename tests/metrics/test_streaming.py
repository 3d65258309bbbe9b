"""The life cycle of torchmetrics: forward, reset, pickling, state_dict, collections, devices."""

import copy
import pickle

import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.aggregation import SumMetric

from attviz.errors import DtypeError, FormatError, MetricError, ShapeError
from attviz.metrics import HeadStatistics, TokenStatistics, VocabularyStatistics
from attviz.records import DiagonalRecord

MAKERS = {
    "heads": HeadStatistics,
    "tokens": TokenStatistics,
    "vocabulary": lambda: VocabularyStatistics(11, by="head"),
}
ACCUMULATING = ("heads", "vocabulary")


def numbers(metric):
    """Everything computed, as one flat list of tensors."""
    return [value for value in metric.compute() if isinstance(value, torch.Tensor)]


def assert_same(metric, other):
    for left, right in zip(numbers(metric), numbers(other), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("maker", ACCUMULATING)
def test_forward_gives_the_batch_and_adds_it_to_the_whole(streams, maker):
    records = streams.make_stream(steps=4)
    metric, plain = MAKERS[maker](), streams.feed(MAKERS[maker](), records)
    for record in records:
        batch = metric(record)
        assert int(batch.count.sum()) == int(record.query_mask.sum()) * 3
    assert metric.update_count == plain.update_count
    for left, right in zip(numbers(metric), numbers(plain), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("maker", MAKERS)
def test_reset_forgets_everything_and_gives_the_memory_back(streams, maker):
    metric = streams.feed(MAKERS[maker](), streams.make_stream())
    metric.reset()
    assert metric._state.tensors() == {}
    with pytest.raises(MetricError, match=r"nothing was seen yet. Feed it"):
        metric.compute()
    records = streams.make_stream(num_heads=4)  # another model is welcome now
    assert_same(streams.feed(metric, records), streams.feed(MAKERS[maker](), records))


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric)), lambda metric: metric.clone()])
def test_copies_go_on_by_themselves(streams, maker, twin):
    metric = streams.feed(MAKERS[maker](), streams.make_stream())
    before = [value.clone() for value in numbers(metric)]
    other = twin(metric)
    assert_same(metric, other)
    streams.feed(other, streams.make_stream())
    metric._computed = None
    for left, right in zip(numbers(metric), before, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("maker", ACCUMULATING)
def test_state_dict_travels_inside_a_checkpoint(streams, maker, tmp_path):
    def module():
        outer = torch.nn.Module()
        outer.weight, outer.metric = torch.nn.Parameter(torch.zeros(2)), MAKERS[maker]()
        return outer

    full = module()
    streams.feed(full.metric, streams.make_stream())
    torch.save(full.state_dict(), tmp_path / "checkpoint.pt")
    other = module()
    other.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert_same(full.metric, other.metric)
    assert other.metric.update_count == full.metric.update_count
    full.metric.persistent(False)
    assert list(full.state_dict()) == ["weight"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "metric.spec"'):
        other.load_state_dict({"weight": torch.zeros(2)})


def test_state_dict_of_an_enemy_is_refused_and_the_state_unharmed(streams):
    metric = streams.feed(HeadStatistics(), streams.make_stream())
    good = metric.state_dict()
    for bad, message in (
        ({**good, "diagonal/0/m2": torch.full((3,), -1.0, dtype=torch.float64)}, "cannot be a sample"),
        ({**good, "diagonal/0/m2": torch.zeros(3)}, "expected torch.float64"),
        ({**good, "spec": torch.zeros(3)}, "no 'spec'"),
        ({**good, "spec": torch.tensor([255, 0], dtype=torch.uint8)}, "malformed header"),
        ({**good, "diagonal/7/m2": torch.zeros(3)}, "unexpected"),
        ({**good, "code": "import os"}, "entries that are not tensors"),
    ):
        with pytest.raises(FormatError, match=message):
            metric.load_state_dict(bad)
        with pytest.raises(FormatError, match=message):
            metric.merge_state(bad)
    assert_same(metric, streams.feed(HeadStatistics(), streams.make_stream()))


def test_only_the_same_metric_with_the_same_options_merges(streams):
    metric = streams.feed(HeadStatistics(), streams.make_stream())
    for other in (HeadStatistics(exclude_ids=[1]), VocabularyStatistics(11), SumMetric()):
        with pytest.raises(MetricError, match="cannot merge .* into HeadStatistics"):
            metric.merge_state(other)
    with pytest.raises(MetricError, match="needs a metric or its metric_state, got list"):
        metric.merge_state([1])


def test_a_collection_feeds_and_reads_all_of_them(streams):
    collection = MetricCollection({name: make() for name, make in MAKERS.items()})
    records = streams.make_stream()
    for record in records:
        collection.update(record)
    found = collection.compute()
    assert set(found) == set(MAKERS)
    torch.testing.assert_close(found["heads"].mean, streams.feed(HeadStatistics(), records).compute().mean)
    collection.reset()
    assert all(metric.update_count == 0 for metric in collection.values())


def test_statistics_stay_float64_whatever_the_model_is_cast_to(streams):
    metric = streams.feed(HeadStatistics(), streams.make_stream())
    before = numbers(metric)
    for cast in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.float(), lambda m: m.set_dtype(torch.float16)):
        cast(metric)
        assert metric._state.moments["diagonal/0"].mean.dtype == torch.float64
    metric._computed = None
    for left, right in zip(numbers(metric), before, strict=True):
        assert torch.equal(left, right)
    assert metric.to("meta")._state.moments["diagonal/0"].mean.device.type == "meta"


def test_reading_is_cached_until_the_next_update(streams):
    metric = streams.feed(HeadStatistics(), streams.make_stream())
    first = metric.compute()
    assert metric.compute() is first
    streams.feed(metric, streams.make_stream())
    assert metric.compute().count[0, 0] == 2 * first.count[0, 0]


def test_gradients_never_enter(streams):
    diagonal = torch.rand(2, 1, 3, 4, requires_grad=True)
    metric = HeadStatistics()
    metric(diagonal * 1)
    metric.update(diagonal * 1)
    assert not any(tensor.requires_grad for tensor in metric._state.tensors().values())


@pytest.mark.parametrize(
    ("feed", "error", "message"),
    [
        (lambda m, r: m.update("text"), MetricError, "cannot be fed a str; pass a DiagonalRecord, several"),
        (lambda m, r: m.update(r, token_ids=r.token_ids), MetricError, "a DiagonalRecord has its own"),
        (lambda m, r: m.update(torch.rand(3, 4)), ShapeError, "HeadStatistics: the diagonal has axes"),
        (lambda m, r: m.update(r.diagonal, query_mask=torch.ones(2, 4) > 0), ShapeError, r"query_mask must be .* = \(2, 5\).*got \(2, 4\)"),
        (lambda m, r: m.update(r.diagonal, query_mask=torch.ones(2, 5)), DtypeError, "query_mask must be bool, True at real tokens"),
        (lambda m, r: m.update(r.diagonal, token_ids=torch.ones(2, 5)), DtypeError, "token_ids must be integers, got torch.float32"),
        (lambda m, r: m.update(DiagonalRecord("a", 0, 0, torch.rand(1, 2, 3, 4))), ShapeError, "the diagonal of a record must be"),
    ],
)
def test_what_cannot_be_fed_is_refused_by_name(streams, feed, error, message):
    metric = streams.feed(HeadStatistics(), streams.make_stream())
    count = metric.update_count
    with pytest.raises(error, match=message):
        feed(metric, streams.make_record(0))
    assert metric.update_count == count


def test_exclude_ids_need_ids():
    with pytest.raises(MetricError, match="exclude_ids needs token_ids, but layer 0 came without"):
        HeadStatistics(exclude_ids=[1]).update(torch.rand(1, 2, 3))
