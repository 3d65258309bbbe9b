"""What is odd in a data set is counted and told, never dropped in silence; every format that people have is read."""

import io
import json
import sys
import types

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attviz.analysis import analyze
from attviz.analysis.reading import read_texts
from attviz.cli import main
from attviz.errors import ArgumentError, FormatError

ROWS = {"text": ["the old bridge", "match"], "label": [1, 0]}


def test_rows_with_too_many_or_too_few_fields_are_counted(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nthe old, bridge,1\nmatch,0\nstorm\n")
    table = read_texts(tmp_path / "a.csv")
    assert table.oddities == {"rows with more fields than columns": 1, "rows with fewer fields than columns": 1}
    assert table.texts == ["the old", "match", "storm"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text\nmatch\n"the old\nbridge\n', 3),
        ('text,label\n"a ""b"" c",1\nx,"\n', 3),
        ('text\n"never', 2),
    ],
)
def test_a_quote_that_never_closes_is_named_with_its_line(tmp_path, content, line):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(FormatError, match=f"line {line}: a quote is opened but never closed"):
        read_texts(tmp_path / "a.csv")


def test_quotes_that_close_are_no_fault(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"a\nb"\nx "y" z\n"last ""one"""')
    assert read_texts(tmp_path / "a.csv").texts == ["a\nb", 'x "y" z', 'last "one"']


def test_two_columns_of_the_name_of_the_texts_are_named_and_others_are_not(tmp_path):
    (tmp_path / "a.csv").write_text("text,text,id\na,b,1\n")
    with pytest.raises(FormatError, match="2 columns are called 'text'"):
        read_texts(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("text,id,id\na,2,1\n")
    assert read_texts(tmp_path / "b.csv").texts == ["a"]


def test_blank_lines_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n \ntwo\n")
    assert read_texts(tmp_path / "a.txt").oddities == {"blank lines left out": 2}
    (tmp_path / "b.txt").write_text("one\ntwo\n")
    assert read_texts(tmp_path / "b.txt").oddities == {}


def test_another_encoding_is_read_when_it_is_named_and_asked_for_when_it_is_not(tmp_path):
    (tmp_path / "a.txt").write_bytes("café".encode("cp1252"))
    with pytest.raises(FormatError, match=r"not UTF-8 .*--encoding cp1252"):
        read_texts(tmp_path / "a.txt")
    assert read_texts(tmp_path / "a.txt", encoding="cp1252").texts == ["café"]
    with pytest.raises(ArgumentError, match="encoding 'klingon' is unknown to Python"):
        read_texts(tmp_path / "a.txt", encoding="klingon")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PAR1....", "is a Parquet file: name it .parquet"), (b"PK\x03\x04..", "is a ZIP archive"), (b"\x1f\x8b..", "compressed by gzip")],
)
def test_a_binary_file_under_a_text_name_is_called_what_it_is(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_texts(tmp_path / "a.csv")


def written(folder, kind):
    """The same two rows in every format."""
    table = pa.table(ROWS)
    if kind == "parquet":
        pq.write_table(table, folder / "a.parquet")
        return folder / "a.parquet"
    if kind in ("arrow file", "arrow stream"):
        make = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, make(sink, table.schema) as writer:
            writer.write_table(table)
        return folder / "a.arrow"
    if kind == "parquet shards":
        for place in (0, 1):
            pq.write_table(table.slice(place, 1), folder / f"part-{place}.parquet")
        return folder
    if kind == "saved data set":
        datasets.Dataset.from_dict(ROWS).save_to_disk(str(folder / "saved"), num_shards=2)
        return folder / "saved"
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in zip(*ROWS.values(), strict=True)))
    return folder / "a.jsonl"


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream", "parquet shards", "saved data set", "jsonl"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    table = read_texts(written(tmp_path, kind))
    assert (table.texts, table.labels, table.names) == (ROWS["text"], ROWS["label"], ["0", "1"])


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
def test_a_binary_table_cut_short_is_named(tmp_path, kind):
    path = written(tmp_path, kind)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"a\.(parquet|arrow): (not an? (Parquet|Arrow) file, or )?damaged|no text|no row"):
            read_texts(path)


def test_several_splits_are_named(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(ROWS)}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(FormatError, match=r"holds several splits \(train\). Name one: .*d/train"):
        read_texts(tmp_path / "d")
    assert read_texts(tmp_path / "d" / "train").texts == ROWS["text"]


def test_a_streaming_data_set_is_drawn_as_it_is_needed(classifier, tokenizer):
    drawn = []

    def rows():
        for number in range(200):
            drawn.append(number)
            yield {"text": f"match {number % 7}", "label": number % 3}

    table = read_texts(datasets.IterableDataset.from_generator(rows))
    assert isinstance(table.texts, types.GeneratorType)
    assert len(drawn) <= 1
    at_first = []
    handle = classifier.register_forward_pre_hook(lambda *_: at_first.append(len(drawn)))
    analysis = analyze(classifier, tokenizer, table.texts, labels=table.labels, names=table.names, batch_size=1, progress=False)
    handle.remove()
    assert at_first[0] < 80
    assert [document.label for document in analysis.documents] == [number % 3 for number in range(200)]


def test_standard_input_is_read(monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"text,label\nmatch,1\n")))
    table = read_texts("-", format="csv")
    assert (table.texts, table.labels) == (["match"], [1])
    with pytest.raises(ArgumentError, match="standard input cannot be read as parquet; name a file"):
        read_texts("-", format="parquet")
    with pytest.raises(ArgumentError, match="format must be one of csv, .*; got 'xlsx'"):
        read_texts("-", format="xlsx")


def test_texts_that_are_cut_empty_or_repeated_are_counted(classifier, tokenizer, capsys):
    texts = ["match", "the old bridge over the river", "", " ", "match", "match"]
    analysis = analyze(classifier, tokenizer, texts, max_length=5, progress=True)
    assert json.loads(analysis.settings["data"]) == {"texts": 6, "empty": 2, "repeated": 2, "truncated": 1, "lost_tokens": 3}
    told = capsys.readouterr().err
    assert "attviz: 1 of 6 texts were cut (3 tokens lost): --long split keeps all" in told
    assert "attviz: 2 of 6 texts are empty" in told
    split = analyze(classifier, tokenizer, texts, max_length=5, long="split", progress=False)
    assert json.loads(split.settings["data"])["truncated"] == 0


@pytest.fixture(scope="module")
def folder(classifier, tokenizer, tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    classifier.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_the_command_tells_what_was_odd(folder, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("text,label\nthe old bridge over the river,1\nmatch,0\nmatch,0,9\n")
    command = ["analyze", str(folder), str(tmp_path / "a.csv"), "-o", str(tmp_path / "a.attviz"), "--max-length", "5", "--quiet"]
    assert main([*command, "--json"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert {name: summary[name] for name in ("empty", "repeated", "truncated", "lost_tokens", "odd_rows")} == {
        "empty": 0,
        "repeated": 1,
        "truncated": 1,
        "lost_tokens": 3,
        "odd_rows": {"rows with more fields than columns": 1},
    }
    assert "attviz: 1 rows with more fields than columns" in shown.err


def test_a_dry_run_estimates_and_writes_nothing(folder, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the old bridge\nmatch\n" * 50)
    assert main(["analyze", str(folder), str(tmp_path / "a.txt"), "-o", str(tmp_path / "a.attviz"), "--dry-run", "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["texts"], summary["repeated"], summary["layers"], summary["heads"]) == (100, 98, 2, 4)
    assert 300 <= summary["about_tokens"] <= 500
    assert summary["about_seconds"] > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
