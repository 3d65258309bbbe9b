"""Statistics of a corpus without an archive: what a capture would have seen, in a file that does not grow, from any number of processes."""

import json
from collections import Counter

import pytest
import torch

from attviz import metrics
from attviz.analysis import accumulate, analyze, encoding, read_statistics, runner
from attviz.analysis import run as run_module
from attviz.analysis import share as share_module
from attviz.analysis import statistics as statistics_module
from attviz.analysis.reading import read_texts
from attviz.analysis.streaming import stream_texts
from attviz.cli import main
from attviz.errors import ArgumentError, FormatError
from tests.analysis.test_shards import corpus, stop_at


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    for module in (encoding, runner, run_module, statistics_module):
        monkeypatch.setattr(module, "WINDOW", 2)


def both():
    return [metrics.HeadStatistics(), metrics.VocabularyStatistics(by="layer")]


def accumulated(model, tokenizer, texts, path, **options):
    return accumulate(model, tokenizer, texts, both(), path, batch_size=3, progress=False, **options)


def assert_same(found, expected):
    heads, words = found.metrics["HeadStatistics"].compute(), found.metrics["VocabularyStatistics"].compute()
    for one, other in ((heads, expected[0].compute()), (words, expected[1].compute())):
        assert torch.equal(one.count, other.count)
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-12, atol=0, equal_nan=True)
        torch.testing.assert_close(one.std, other.std, rtol=1e-9, atol=1e-15, equal_nan=True)


@pytest.fixture
def expected(classifier, tokenizer):
    seen = both()
    analyze(classifier, tokenizer, corpus(60), metrics=seen, batch_size=3, progress=False)
    return seen


def test_statistics_are_those_of_an_analysis_and_are_read_back(classifier, tokenizer, tmp_path, expected):
    found = accumulated(classifier, tokenizer, (text for text in corpus(60)), tmp_path / "run.stats")
    assert_same(found, expected)
    files = ["run.stats", "run.stats.HeadStatistics.safetensors", "run.stats.VocabularyStatistics.safetensors"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == files
    read = read_statistics(tmp_path / "run.stats")
    assert_same(read, expected)
    assert json.loads(read.settings["data"])["texts"] == 60
    heads = metrics.HeadStatistics()
    heads.load_state(tmp_path / files[1])
    assert torch.equal(heads.compute().mean, found.metrics["HeadStatistics"].compute().mean)
    with pytest.raises(ArgumentError, match="already exists"):
        accumulated(classifier, tokenizer, corpus(60), tmp_path / "run.stats")


@pytest.mark.parametrize("count", [1, 3])
def test_a_stopped_run_goes_on_with_any_number_of_processes(classifier, tokenizer, tmp_path, expected, monkeypatch, count):
    monkeypatch.setattr(share_module, "_SECONDS", 0)
    monkeypatch.setattr(share_module, "_SHARE", 0)
    for index, forward in enumerate((5, 4)):
        handle = stop_at(classifier, forward)
        with pytest.raises(KeyboardInterrupt):
            accumulated(classifier, tokenizer, corpus(60), tmp_path / "run.stats", shard=(index, 2))
        handle.remove()
    forwards = []
    handle = classifier.register_forward_pre_hook(lambda *_: forwards.append(1))
    for index in range(count):
        accumulated(classifier, tokenizer, corpus(60), tmp_path / "run.stats", shard=(index, count))
    handle.remove()
    assert len(forwards) == 2 * (10 - 2 - 1)
    with pytest.raises(FormatError, match="comes from a run with --statistics, which keeps no documents"):
        from attviz import io

        io.load(tmp_path / "run.stats")
    assert main(["merge", str(tmp_path / "run.stats"), "--remove"]) == 0
    assert_same(read_statistics(tmp_path / "run.stats"), expected)
    assert len(list(tmp_path.iterdir())) == 3


def test_files_and_memory_do_not_grow_with_the_corpus(classifier, tokenizer, tmp_path):
    sizes = []
    for count in (30, 300):
        accumulated(classifier, tokenizer, corpus(count), tmp_path / f"{count}.stats", shard="any")
        sizes.append(sum(entry.stat().st_size for entry in tmp_path.glob(f"{count}.stats.shard-*")))
    assert sizes[1] - sizes[0] < 1000  # the numbers of 45 windows more


def test_the_command_streams_and_says_what_it_saw(classifier, tokenizer, tmp_path, capsys):
    classifier.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts = [text for text in corpus(50) if text]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    command = ["analyze", str(tmp_path / "model"), str(tmp_path / "texts.jsonl"), "--batch-size", "3", "--quiet", "--json"]
    assert main([*command, "--statistics", "heads,health", "-o", str(tmp_path / "run.stats")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["texts"] == len(texts)
    found = read_statistics(tmp_path / "run.stats").metrics
    assert set(found) == {"HeadStatistics", "AttentionHealth"}
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    assert int(found["HeadStatistics"].compute().count[0, 0]) == tokens
    assert int(found["AttentionHealth"].compute().rows[0, 0]) == tokens
    for index in (1, 0):
        assert main([*command, "--statistics", "-o", str(tmp_path / "two.stats"), "--shard", f"{index}/2"]) == 0
    assert main(["merge", str(tmp_path / "two.stats")]) == 0
    pooled = read_statistics(tmp_path / "two.stats").metrics["HeadStatistics"]
    assert torch.equal(pooled.compute().count, found["HeadStatistics"].compute().count)
    assert main([*command, "--statistics", "tails", "-o", str(tmp_path / "x")]) == 2
    assert "--statistics takes heads, vocabulary, health" in capsys.readouterr().err


FILES = {
    "a.txt": b"one\r\n\n two \nthree",
    "a.csv": b'n,text\r\n1,"a ""b""\nc"\r\n2,d,e\r\n3\n4,f\n',
    "a.tsv": b"text\tlabel\na\t1\n",
    "a.jsonl": b'{"text": "a"}\n"b"\n\n{"text": "\\u00e9", "x": 1}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_a_stream_gives_the_texts_and_the_oddities_of_the_table(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name].replace(b"3\n", b""))
    table, odd = read_texts(tmp_path / name), Counter()
    assert list(stream_texts(tmp_path / name, odd)) == table.texts
    assert dict(odd) == dict(table.oddities)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'text\na\n"b\nc\n', "line 3: a quote is opened but never closed"),
        ("a.csv", b"sentiment\na\n", "none of 'text'"),
        ("a.jsonl", b'{"text": "a"}\n[]\n', "line 2 must be an object or a string"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 1}\n', "row 1 has no text in column 'text'"),
        ("a.txt", b"ok\n\xff\xfe\n", "not UTF-8"),
        ("a.txt", b"\x1f\x8b000", "compressed by gzip"),
        ("a.txt", b"\n", "the file has no text"),
    ],
)
def test_what_cannot_be_read_is_named_in_a_stream_too(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        list(stream_texts(tmp_path / name, Counter()))


def test_parquet_and_folders_stream(tmp_path):
    import pandas as pd

    for place in range(2):
        pd.DataFrame({"text": [f"{place} {n}" for n in range(3)]}).to_parquet(tmp_path / f"{place}.parquet")
    assert list(stream_texts(tmp_path, Counter())) == [f"{place} {n}" for place in range(2) for n in range(3)]
    assert list(stream_texts(tmp_path / "1.parquet", Counter())) == ["1 0", "1 1", "1 2"]


def test_foreign_statistics_are_refused(classifier, tokenizer, tmp_path):
    (tmp_path / "x").write_text("{}")
    with pytest.raises(FormatError, match="not statistics of a corpus"):
        read_statistics(tmp_path / "x")
    (tmp_path / "x").write_text(json.dumps({"attviz": "statistics", "version": 1, "metrics": ["../a"], "settings": {}, "model_name": ""}))
    with pytest.raises(FormatError, match="not statistics of a corpus"):
        read_statistics(tmp_path / "x")
    with pytest.raises(FormatError, match="attviz.metrics has no .*. Construct your metric"):
        statistics_module.metric_of('system({"x": 1})')
    with pytest.raises(ArgumentError, match="accumulate: needs metrics="):
        accumulate(classifier, tokenizer, ["a"], [], tmp_path / "y")
    with pytest.raises(ArgumentError, match="It cannot be pooled over several processes"):
        accumulate(classifier, tokenizer, ["the bridge"], metrics.TokenStatistics(), tmp_path / "y", progress=False)
