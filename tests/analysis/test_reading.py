"""Data sets from files, with what can be wrong in them."""

import csv
import json

import pytest

from attviz.analysis.reading import classes_of, read_texts
from attviz.errors import ArgumentError, FormatError


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_tsv_with_quotes_newlines_and_number_labels(file):
    table = read_texts(file("a.tsv", 'label\ttext_a\n2\t"a ""b""\nc"\n\td\n'))
    assert table.texts == ['a "b"\nc', "d"]
    assert table.labels == [2, None]
    assert table.label_names is None


def test_csv_with_named_classes(file):
    table = read_texts(file("a.csv", "\ufefftext,label\na\u2028b,sport\nc,film\n"))
    assert table.texts == ["a\u2028b", "c"]
    assert (table.labels, table.label_names) == (["sport", "film"], ("film", "sport"))


def test_a_field_longer_than_the_csv_module_likes_and_its_limit_is_put_back(file):
    before = csv.field_size_limit()
    assert len(read_texts(file("a.csv", "text\n" + "x" * 200_000 + "\n")).texts[0]) == 200_000
    assert csv.field_size_limit() == before


def test_json_lines_of_objects_or_strings(file):
    table = read_texts(file("a.jsonl", json.dumps({"text": "a", "label": 1}) + "\n\n" + json.dumps("b") + "\n"))
    assert (table.texts, table.labels) == (["a", "b"], [1, None])


def test_text_files_and_folders(file, tmp_path):
    assert read_texts(file("a.txt", "one\r\n\ntwo\n")).texts == ["one", "two"]
    file("b.txt", "three\nfour")
    table = read_texts(tmp_path)
    assert (table.texts[1], table.names) == ("three\nfour", ["a.txt", "b.txt"])


def test_a_hugging_face_data_set_with_its_class_names():
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    table = read_texts(datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features))
    assert (table.texts, table.labels, table.label_names) == (["a", "b"], [1, 0], ("bad", "good"))


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", "x,y\n1,2\n", {}, r"none of 'text', 'text_a', .* is a column; found 'x', 'y'. Name the text column"),
        ("a.csv", "x,y\n1,2\n", {"text_column": "z"}, "no column 'z'; found 'x', 'y'"),
        ("a.csv", "text\na\n", {"label_column": "z"}, "no column 'z'; found 'text'. Name the label column"),
        ("a.csv", "", {}, "found none"),
        ("a.csv", "text\n", {}, "no row follows the columns text"),
        ("a.csv", "label,text\n1\n", {}, "row 0 has no text in column 'text'"),
        ("a.csv", b"text\n\xe9\n", {}, r"not UTF-8 .byte 5"),
        ("a.jsonl", "{\n", {}, "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", {}, "line 1 must be an object or a string, got list"),
        ("a.jsonl", '{"text": "a", "label": 0.5}\n', {}, "column 'label' must hold whole numbers or names of classes, got float"),
        ("a.txt", "\n \n", {}, "there is no text in this file"),
    ],
)
def test_bad_files_are_named(file, name, content, options, message):
    with pytest.raises(FormatError, match=message):
        read_texts(file(name, content), **options)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FormatError, match=r"no \.txt, \.parquet or \.arrow file in this folder"):
        read_texts(tmp_path)


def test_classes_come_from_the_call_then_the_model_then_the_data(file):
    table = read_texts(file("a.csv", "text,label\na,sport\n"))
    assert classes_of(table, ["x"], ["sport"]) == ["x"]
    assert classes_of(table, None, ["sport", "film"]) is None
    assert classes_of(table, None, None) == ("sport",)
    with pytest.raises(ArgumentError, match="the model does not know: sport; it has film"):
        classes_of(table, None, ["film"])
