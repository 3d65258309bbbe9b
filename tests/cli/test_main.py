"""The command as a user gives it: what it prints where, its exit codes, and one line for a mistake."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import attviz
from attviz import io
from attviz.cli import COMMANDS, main
from attviz.cli.table import token_rows, token_table
from attviz.records import Document

TEXTS = "text,label\nthe old bridge,town\na bad film .,film\nmatch goal,sport\n"


@pytest.fixture(scope="session")
def folder(classifier, tokenizer, tmp_path_factory):
    """A model on the disk, as `attviz analyze` is given one."""
    place = tmp_path_factory.mktemp("model")
    classifier.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def archive(folder, tmp_path_factory):
    """The analysis of three labelled texts, made by the command."""
    place = tmp_path_factory.mktemp("run")
    (place / "texts.csv").write_text(TEXTS)
    assert main(["analyze", str(folder), str(place / "texts.csv"), "-o", str(place / "run.attviz"), "--quiet"]) == 0
    return place / "run.attviz"


def call(capsys, *argv):
    code = main([str(part) for part in argv])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def mistake(capsys, *argv):
    """The one line that a mistake gets."""
    code, out, err = call(capsys, *argv)
    assert code == 2
    assert out == ""
    line = err.strip().splitlines()[-1]
    assert line.startswith(f"attviz {argv[0]}: ")
    assert "Traceback" not in err
    return line


def test_analyze_keeps_texts_classes_and_predictions(archive, capsys):
    analysis = io.load(archive)
    assert analysis.label_names == ("film", "sport", "town")
    assert [(document.text, document.label) for document in analysis.documents] == [
        ("the old bridge", 2),
        ("a bad film .", 0),
        ("match goal", 1),
    ]
    assert all(document.probabilities is not None for document in analysis.documents)


def test_analyze_prints_a_summary_for_machines_on_stdout_only(folder, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("the old bridge\nthe river\n")
    code, out, err = call(
        capsys, "analyze", folder, tmp_path / "texts.txt", "-o", tmp_path / "a.attviz", "--json", "--limit", 1, "--layers", "0"
    )
    summary = json.loads(out)
    assert code == 0
    assert (summary["documents"], summary["tokens"], summary["layers"], summary["heads"]) == (1, 5, 1, 4)
    assert "1/1" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text-column", "body"], "no column 'body'; found 'text', 'label'"),
        (["--max-length", "99"], "max_length=99 is more than the model accepts"),
        (["--label-names", "a,b"], "one per class of the model (3), got 2"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["--layers", "99"], "99"),
    ],
)
def test_analyze_names_mistakes(folder, tmp_path, capsys, options, message):
    (tmp_path / "texts.csv").write_text(TEXTS)
    assert message in mistake(capsys, "analyze", folder, tmp_path / "texts.csv", "-o", tmp_path / "a.attviz", *options)
    assert not (tmp_path / "a.attviz").exists()


def test_analyze_stopped_by_ctrl_c_says_how_to_go_on(folder, tmp_path, capsys, monkeypatch):
    from attviz.io.partial import PartialArchive

    append, calls = PartialArchive.append, []

    def once(self, documents, layers):
        append(self, documents, layers)
        calls.append(len(documents))
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartialArchive, "append", once)
    (tmp_path / "texts.csv").write_text(TEXTS)
    command = ["analyze", folder, tmp_path / "texts.csv", "-o", tmp_path / "a.attviz", "--batch-size", 2]
    code, _, err = call(capsys, *command)
    assert code == 130
    assert "run the same command to continue" in err
    assert call(capsys, *command)[0] == 0
    assert calls == [2, 1]
    assert [document.text for document in io.load(tmp_path / "a.attviz").documents] == ["the old bridge", "a bad film .", "match goal"]


def test_files_that_are_not_there_are_named(folder, tmp_path, capsys):
    assert "none.csv" in mistake(capsys, "analyze", folder, tmp_path / "none.csv", "-o", tmp_path / "a.attviz")
    assert "no such archive" in mistake(capsys, "plot", tmp_path / "none.attviz")


def test_plot_prints_the_paths_it_wrote(archive, tmp_path, capsys):
    options = ["--figures", "series,head_map", "--documents", 1, "--formats", "svg", "-o", tmp_path / "figures"]
    code, out, err = call(capsys, "plot", archive, *options)
    assert code == 0
    assert [Path(line).name for line in out.splitlines()] == ["series_0001.svg", "head_map.svg"]
    assert all(Path(line).stat().st_size > 1000 for line in out.splitlines())
    assert err.strip() == f"2 files in {tmp_path / 'figures'}/"


def test_plot_reads_files_of_the_original_tool(tmp_path, capsys):
    vector = {"name": 0, "vectors": ["0.25", "0.5"]}
    document = {"text": "a b", "sets": [{"tokens": ["a", "b"], "attention_vectors": [vector]}], "output_activations": []}
    (tmp_path / "old.json").write_text(json.dumps({"0": document}))
    code, out, _ = call(capsys, "plot", tmp_path / "old.json", "--figures", "aggregates", "-o", tmp_path)
    assert (code, Path(out.strip()).name) == (0, "aggregates_0000.png")


def test_plot_names_an_unknown_figure_and_document(archive, tmp_path, capsys):
    assert "figures must be among sequence, series" in mistake(capsys, "plot", archive, "--figures", "pie", "-o", tmp_path)
    assert "document 7 does not exist" in mistake(capsys, "plot", archive, "--documents", 7, "-o", tmp_path)


def test_convert_to_attviz_json_and_back_keeps_the_values(archive, tmp_path, capsys):
    assert call(capsys, "convert", archive, tmp_path / "a.json")[0] == 0
    assert call(capsys, "convert", tmp_path / "a.json", tmp_path / "b.attviz")[0] == 0
    for one, other in zip(io.load(archive).documents, io.load(tmp_path / "b.attviz").documents, strict=True):
        np.testing.assert_array_equal(one.diagonal.reshape(8, -1), other.diagonal[0])
        assert (one.tokens, one.prediction) == (other.tokens, other.prediction)


def test_convert_to_the_other_formats(archive, tmp_path, capsys):
    assert call(capsys, "convert", archive, tmp_path / "a.csv")[0] == 0
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("0,0,0,[CLS]")
    assert call(capsys, "convert", archive, tmp_path / "a.tex", "--documents", 1, "--layers", 1, "--heads", 3)[0] == 0
    assert (tmp_path / "a.tex").read_text().count("colorbox") == 6
    code, out, err = call(capsys, "convert", archive, tmp_path / "a.json", "--layers", 0, "--heads", 1, "--documents", 2)
    assert (code, out.strip(), err.strip()) == (0, str(tmp_path / "a.json"), "1 document")
    assert [vector.name for vector in io.read_attviz_json(tmp_path / "a.json")[0].sets[0].vectors] == ["layer 0 head 1"]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("a.docx", [], "the suffix must be one of .attviz, .json, .csv, .parquet, .tex; got '.docx'"),
        ("a.json", ["--heads", "9"], "io.attviz_documents: heads contains 9, but the model has heads 0 to 3"),
        ("a.csv", ["--layers", "9"], "io.to_csv: layers=9 matches none of the 2 layers"),
        ("b.attviz", ["--heads", "0"], "an archive counts its heads from 0, so heads= cannot be kept"),
        ("a.json", ["--documents", "5"], "document 5 does not exist"),
    ],
)
def test_convert_names_mistakes(archive, tmp_path, capsys, target, options, message):
    assert message in mistake(capsys, "convert", archive, tmp_path / target, *options)


def test_convert_names_the_fault_in_a_hostile_file(tmp_path, capsys):
    (tmp_path / "a.json").write_text('[{"text": "a", "sets": [{"tokens": ["a"], "attention_vectors": [{"vectors": ["abc"]}]}]}]')
    line = mistake(capsys, "convert", tmp_path / "a.json", tmp_path / "b.attviz")
    assert "[0].sets[0].attention_vectors[0].vectors[0]: not a number: 'abc'" in line


def test_bench_compares_the_outputs_and_prints_ratios(folder, capsys):
    options = ["--model", folder, "--batch-size", 2, "--length", 8, "--pairs", 3, "--threads", 1, "--json"]
    code, out, err = call(capsys, "bench", *options)
    result = json.loads(out)
    assert code == 0
    assert result["identical"] is True
    assert result["ratio_min"] <= result["ratio"] <= result["ratio_max"]
    assert result["plain_ms"] > 0
    assert "pair 3 of 3" in err


def test_bench_with_different_outputs_is_a_finding(folder, capsys, monkeypatch):
    monkeypatch.setattr("attviz.cli.bench._identical", lambda model, inputs: False)
    assert call(capsys, "bench", "--model", folder, "--length", 8, "--pairs", 1)[0] == 1


def test_bench_names_mistakes(capsys):
    assert "--pairs must be at least 1, got 0" in mistake(capsys, "bench", "--pairs", 0)


def test_demo_on_a_model_and_texts_of_the_user(folder, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("the river bank\n")
    options = ["--model", folder, "--text", "the old bridge", "--file", tmp_path / "notes.txt", "--no-figures"]
    code, out, err = call(capsys, "demo", *options)
    assert code == 0
    assert "2 layers x 4 heads" in out
    assert [line for line in out.splitlines() if line in ("the old bridge", "the river bank")] == ["the old bridge", "the river bank"]
    assert "strongest head" in out
    assert "2 special tokens are left out; --special shows them" in out
    assert "What stands out" in out
    assert "- On average, a token gives" in out
    assert "[CLS]" not in out.split("What stands out")[0]
    assert "loading" in err
    assert "[CLS]" in call(capsys, "demo", *options, "--special")[1].split("What stands out")[0]


def test_demo_prints_json_and_writes_what_it_says(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "attviz.analysis.figures.FIGURES", {name: cli_figure for name, cli_figure in _figures().items() if name in ("series", "head_map")}
    )
    code, out, err = call(capsys, "demo", "--model", folder, "--text", "the river", "--json", "-o", tmp_path / "out")
    assert code == 0
    found = json.loads(out)
    assert [row["token"] for row in found["documents"][0]["tokens"]] == ["the", "river"]
    assert found["insights"][0]["text"].startswith("On average, a token gives")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"demo.attviz", "demo.json", "demo.tex", "demo.html", "series_0000.png", "head_map.png"}
    assert "6 files in" in err


def _figures():
    from attviz.analysis.figures import FIGURES

    return FIGURES


def test_demo_of_an_empty_file_is_a_mistake(tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n")
    assert "contains no text" in mistake(capsys, "demo", "--file", tmp_path / "empty.txt")


def test_the_demo_runs_from_the_shell_on_the_packaged_weights():
    command = [sys.executable, "-m", "attviz", "demo", "--no-figures", "--text", "The bank by the river."]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "6 layers x 12 heads" in shown.stdout
    river = next(line for line in shown.stdout.splitlines() if line.startswith("river"))
    assert 0 < float(river.split()[1]) < 1


def test_rows_are_the_aggregates_of_the_tokens():
    document = Document("a b", ("a", "##b"), np.array([[[0.1, 0.2], [0.3, 0.0]]], dtype=np.float32))
    rows = token_rows(document)
    assert [row["label"] for row in rows] == ["a", "…b"]
    assert rows[0]["mean"] == pytest.approx(0.2)
    assert [row["strongest"] for row in rows] == [[0, 1], [0, 0]]
    assert token_table(document, most=1).endswith("... and 1 more tokens")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"attviz {command}" in capsys.readouterr().out.split("options:")[0]


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    assert "typical use" in capsys.readouterr().out


def test_ctrl_c_ends_with_130_and_a_fault_of_ours_keeps_its_traceback(monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("attviz.cli.bench.run", stop)
    assert main(["bench"]) == 130
    assert capsys.readouterr().err == "attviz bench: stopped\n"

    def fault(args):
        raise ZeroDivisionError

    monkeypatch.setattr("attviz.cli.bench.run", fault)
    with pytest.raises(ZeroDivisionError):
        main(["bench"])


def test_help_needs_neither_transformers_nor_matplotlib():
    heavy = ("transformers", "matplotlib", "torchmetrics")
    code = f"import sys, attviz.cli as c; c.build_parser(); print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_info_names_versions_devices_and_what_is_tapped(capsys):
    code, out, err = call(capsys, "info", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["versions"]["attviz"] == attviz.__version__
    assert report["devices"]["cpu"]
    assert report["operators tapped"]["aten::_softmax"] == ["CPU"]
    assert report["operators tapped"]["aten::_scaled_dot_product_flash_attention"] == (
        ["CUDA"] if torch.cuda.is_available() else ["not in this build"]
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_subcommand(capsys, shell):
    code, out, _ = call(capsys, "completion", shell)
    assert code == 0
    assert all(command in out for command in COMMANDS)
