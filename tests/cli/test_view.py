"""`attviz view`: an archive or an AttViz JSON file becomes a page."""

import json

import numpy as np
import pytest

from attviz import io
from attviz.cli import main
from attviz.records import Analysis, Document

JSON = [{"text": "a b", "sets": [{"tokens": ["a", "b"], "attention_vectors": [{"name": 0, "vectors": ["0.5", "0.25"]}]}]}]


@pytest.fixture
def archive(tmp_path):
    documents = [Document(f"one two {i}", ("one", "two", str(i)), np.full((2, 3, 3), 0.25, np.float32)) for i in range(3)]
    return io.save(Analysis(("block.0", "block.1"), documents, model_name="tiny"), tmp_path / "run.attviz")


def head(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(text.split('id="attviz-head">')[1].split("</script>")[0])


def test_an_archive_becomes_a_page(archive, tmp_path, capsys):
    assert main(["view", str(archive), "-o", str(tmp_path / "page.html"), "--layers", "*.1", "--heads", "2", "--documents", ":2"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'page.html'}\n"
    assert "'tiny': 2 documents" in shown.err
    found = head(tmp_path / "page.html")
    assert found["grid"] == {"layers": [{"index": 1, "name": "block.1"}], "heads": [2]}
    assert len(found["documents"]) == 2


def test_a_json_file_becomes_a_page_beside_it(tmp_path, capsys):
    (tmp_path / "mine.json").write_text(json.dumps(JSON), encoding="utf-8")
    assert main(["view", str(tmp_path / "mine.json")]) == 0
    assert head(tmp_path / "mine.html")["title"] == "mine"


def test_pairs_of_an_archive_say_what_to_run(archive, tmp_path, capsys):
    assert main(["view", str(archive), "--pairs", "-o", str(tmp_path / "page.html")]) == 2
    assert "attviz pairs MODEL TEXT -o page.html" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_open_shows_the_page(archive, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["view", str(archive), "--open", "--layers", "-1"]) == 0
    assert opened == [archive.with_suffix(".html").resolve().as_uri()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "nope"], "view: layers='nope' matches none of the 2 layers: block.0, block.1."),
        (["--heads", "9"], "view: heads contains 9, but the model has heads 0 to 2."),
        (["--documents", ":0"], "keeps none of the 3 documents"),
    ],
)
def test_a_mistake_is_one_line(archive, capsys, arguments, message):
    assert main(["view", str(archive), *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def test_a_missing_or_malformed_file_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    for name in ("none.attviz", "bad.json"):
        assert main(["view", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.startswith("attviz view: ")
