"""VocabularyStatistics against two passes over the values of each id."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, FormatError, MetricError
from attviz.metrics import VocabularyStatistics
from attviz.records import DiagonalRecord

VOCAB = 11


def cells(table):
    """Yield (narrowing for values_of, five numbers) for every cell of a table."""
    parts = (table.count, table.mean, table.std, table.max, table.min)
    tables = {"model": [{}], "layer": [{"layer_index": 0}, {"layer_index": 1}]}.get(
        table.by, [{"layer_index": layer, "head": head} for layer in range(2) for head in range(3)]
    )
    for narrow, *flat in zip(tables, *(part.reshape(len(tables), -1) for part in parts), strict=True):
        for row, token in enumerate(table.token_ids.tolist()):
            yield {**narrow, "token": token}, [column[row] for column in flat]


def assert_vocabulary(streams, table, records):
    for narrow, numbers in cells(table):
        streams.assert_statistics(streams.values_of(records, **narrow), *numbers)


@pytest.mark.parametrize("by", ["model", "layer", "head"])
def test_every_id_has_the_statistics_of_its_values(streams, by):
    records = streams.make_stream(steps=5)
    table = streams.feed(VocabularyStatistics(VOCAB, by=by), records).compute()
    assert table.mean.shape == {"model": (VOCAB,), "layer": (2, VOCAB), "head": (2, 3, VOCAB)}[by]
    assert_vocabulary(streams, table, records)
    assert table.layers == ("layer.0", "layer.1")


@given(by=st.sampled_from(["model", "layer", "head"]), cut=st.integers(0, 8), swap=st.booleans())
@settings(max_examples=15, deadline=None)
def test_cutting_and_merging_changes_nothing(streams, by, cut, swap):
    records = streams.make_stream(steps=4)
    first, second = (streams.feed(VocabularyStatistics(VOCAB, by=by), part) for part in (records[:cut], records[cut:]))
    if swap:
        first, second = second, first
    first.merge_state(second)
    assert_vocabulary(streams, first.compute(), records)


def test_merged_metrics_share_no_memory(streams):
    empty, full = VocabularyStatistics(VOCAB), streams.feed(VocabularyStatistics(VOCAB), streams.make_stream())
    empty.merge_state(full)
    before = full.compute().count
    streams.feed(empty, streams.make_stream())
    full._computed = None
    assert torch.equal(full.compute().count, before)


@pytest.mark.parametrize(("options", "rows"), [({"tokens": [7, 3]}, [3, 7]), ({"max_tokens": 4}, [0, 1, 2, 3])])
def test_subsets_keep_their_ids_only_and_say_what_they_skip(streams, options, rows):
    records = streams.make_stream(steps=3)
    for vocab_size in (VOCAB, None):
        table = streams.feed(VocabularyStatistics(vocab_size, **options), records).compute()
        assert table.token_ids.tolist() == rows
        assert_vocabulary(streams, table, records)
        kept = sum(len(streams.values_of(records, 0, 0, token)) for token in rows)
        assert table.skipped[0].item() == len(streams.values_of(records, 0, 0)) - kept


def test_excluded_and_negative_ids_have_no_row(streams):
    records = streams.make_stream(steps=2)
    records[0].token_ids[0, 0] = -100
    records[1].token_ids[0, 0] = -100
    table = streams.feed(VocabularyStatistics(VOCAB, exclude_ids=[2]), records).compute()
    assert table.count[:, 2].sum() == 0
    for token in (t for t in range(VOCAB) if t != 2):
        numbers = (part[0, token] for part in (table.count, table.mean, table.std, table.max, table.min))
        streams.assert_statistics(streams.values_of(records, 0, token=token), *numbers)


def test_a_nan_is_left_out_of_its_layer_only_and_counted(streams):
    records = streams.make_stream(steps=1)
    records[0].diagonal[0, 1, 2] = torch.nan
    token = records[0].token_ids[0, 2].item()
    table = streams.feed(VocabularyStatistics(VOCAB, by="head"), records).compute()
    assert table.faults.tolist() == [1, 0]
    assert table.count[0, 0, token] + 1 == table.count[1, 0, token]
    seen = table.count > 0
    assert table.mean[seen].isfinite().all()
    assert table.max[seen].isfinite().all()


def test_ids_rewritten_in_place_between_steps_are_read_again(streams):
    metric, token_ids = VocabularyStatistics(VOCAB), torch.zeros(1, 4, dtype=torch.long)
    for step in range(2):
        token_ids.fill_(step)
        for layer in range(2):
            metric.update(DiagonalRecord(f"l{layer}", layer, step, torch.rand(1, 2, 4), token_ids, None))
    assert metric.compute().count[:, :3].tolist() == [[8, 8, 0]] * 2


def test_an_id_outside_the_vocabulary_is_an_error_and_the_state_is_unharmed(streams):
    metric = streams.feed(VocabularyStatistics(VOCAB), streams.make_stream())
    before = metric.compute().count.clone()
    bad = streams.make_record(1, 9)
    bad.token_ids[0, 0] = VOCAB
    with pytest.raises(MetricError, match=r"token id 11 is outside vocab_size=11. Does the tokenizer have added tokens\?"):
        metric.update([streams.make_record(0, 9), bad])
    metric._computed = None
    assert torch.equal(metric.compute().count, before)


def test_tables_beyond_the_limit_are_refused_with_the_smaller_options(streams):
    metric = VocabularyStatistics(1000, by="head", max_bytes=100_000)
    assert metric.bytes_per_layer(num_heads=3) == 1000 * (3 * 24 + 8)
    metric.update(streams.make_record(0))
    assert metric.nbytes == pytest.approx(80_000, rel=1e-3)  # and a few counters
    message = r"layer 1 would grow its tables to 0.2 MiB, more than max_bytes=0.1 MiB \(1000 ids x 3 heads are 0.1 MiB\). Smaller: "
    with pytest.raises(MetricError, match=message + r"by='layer' \(0.0 MiB a layer\), by='model' \(0.0 MiB in all\), tokens"):
        metric.update(streams.make_record(1))
    assert list(metric._state.layers) == [0]
    metric.update(streams.make_record(0, 1))


def test_memory_does_not_grow_with_the_stream(streams):
    metric = VocabularyStatistics(VOCAB, by="head")
    sizes = {streams.feed(metric, streams.make_stream(steps=3)).nbytes for _ in range(4)}
    assert len(sizes) == 1
    assert sizes.pop() == 2 * (VOCAB * (3 * 24 + 8) + 8 * (3 + 2))


def test_size_of_the_vocabulary_is_read_off_the_model(streams):
    model = torch.nn.Module()
    model.get_input_embeddings = lambda: torch.nn.Embedding(VOCAB, 4)
    metric = VocabularyStatistics()
    with pytest.raises(MetricError, match=r"the vocabulary size is not known. Pass vocab_size="):
        metric.update(streams.make_record(0))
    metric.prepare(model)
    assert streams.feed(metric, streams.make_stream()).compute().token_ids.tolist() == list(range(VOCAB))


def test_what_is_missing_or_contradictory_is_named(streams):
    with pytest.raises(ArgumentError, match="by must be one of 'model', 'layer', 'head'"):
        VocabularyStatistics(5, by="token")
    with pytest.raises(ArgumentError, match="tokens= or max_tokens=, not both"):
        VocabularyStatistics(5, tokens=[1], max_tokens=2)
    with pytest.raises(ArgumentError, match="vocab_size must be a positive int, got 0"):
        VocabularyStatistics(0)
    with pytest.raises(ArgumentError, match="non-empty collection"):
        VocabularyStatistics(5, tokens=[])
    with pytest.raises(ArgumentError, match="exclude_ids must be token ids >= 0"):
        VocabularyStatistics(5, exclude_ids=[-1])
    with pytest.raises(MetricError, match="came without token ids"):
        VocabularyStatistics(5).update(torch.rand(1, 2, 3))


def test_table_lists_the_words_with_the_highest_mean_first(streams):
    class Words:
        def convert_ids_to_tokens(self, ids):
            return [f"w{token}" for token in ids]

    records = streams.make_stream(steps=4)
    table = streams.feed(VocabularyStatistics(VOCAB, by="head"), records).compute()
    frame = table.to_pandas(Words(), min_count=2, exclude_ids=[3])
    assert frame["mean"].is_monotonic_decreasing
    assert (frame["count"] >= 2).all()
    assert 3 not in set(frame["token_id"])
    assert (frame["token"] == "w" + frame["token_id"].astype(str)).all()
    row = frame.iloc[0]
    streams.assert_statistics(
        streams.values_of(records, row.layer_index, row["head"], row.token_id),
        row["count"],
        row["mean"],
        row["std"],
        row["max"],
        row["min"],
    )


@pytest.mark.parametrize("by", ["model", "layer", "head"])
def test_update_reads_no_value_so_it_never_waits_for_a_device(streams, by):
    record = streams.make_record(0)
    metric = VocabularyStatistics(VOCAB, by=by, exclude_ids=[1])
    for step in range(2):
        fake = DiagonalRecord("a", 0, step, *(t.to("meta") for t in (record.diagonal, record.token_ids, record.query_mask)))
        metric.update(fake)
    assert metric._state.moments["tokens/model" if by == "model" else "tokens/0"].mean.device.type == "meta"


def test_a_fresh_metric_takes_its_saved_state_and_the_size_of_the_vocabulary_with_it(streams, tmp_path):
    records = streams.make_stream()
    seen = streams.feed(VocabularyStatistics(VOCAB), records)
    seen.save_state(tmp_path / "words.safetensors")
    by_file, by_dict, by_merge = VocabularyStatistics(), VocabularyStatistics(), VocabularyStatistics()
    by_file.load_state(tmp_path / "words.safetensors")
    by_dict.load_state_dict(seen.state_dict())
    by_merge.merge_state(seen)
    for fresh in (by_file, by_dict, by_merge):
        assert fresh.vocab_size == VOCAB
        torch.testing.assert_close(fresh.compute().mean, seen.compute().mean, equal_nan=True)
        streams.feed(fresh, records)  # and goes on
        assert fresh.compute().count.sum() == 2 * seen.compute().count.sum()


def test_a_state_of_another_vocabulary_or_a_damaged_one_teaches_nothing(streams, tmp_path):
    seen = streams.feed(VocabularyStatistics(VOCAB), streams.make_stream())
    seen.save_state(tmp_path / "words.safetensors")
    with pytest.raises(MetricError, match=f"has size {VOCAB + 1}, but the other state has size {VOCAB}: they come from different models"):
        VocabularyStatistics(VOCAB + 1).load_state(tmp_path / "words.safetensors")
    raw = (tmp_path / "words.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    fresh = VocabularyStatistics()
    with pytest.raises(FormatError):
        fresh.load_state(tmp_path / "cut.safetensors")
    assert fresh.vocab_size is None
