"""Foreign text and foreign sizes: shown, never obeyed; checked before memory is taken."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz import io
from attviz.analysis.reading import read_texts
from attviz.cli import main
from attviz.cli.table import token_table
from attviz.errors import ArgumentError, AttvizError, FormatError
from attviz.records import Analysis, Document
from attviz.spelling import printable, readable_labels
from attviz.viewer import view

EVIL = ["[CLS]", "<\x1b[2J>", "\x1b]0;owned\x07", "a\x00b", "\u202egnp.exe", "\x9b31m", "<|\x08\x08|>", "\ud800", "\r\n=1+1", "﻿", "\x7f"]


def evil_analysis(tokens=EVIL):
    values = np.linspace(0.1, 0.9, 4 * len(tokens), dtype=np.float32).reshape(2, 2, len(tokens))
    texts = [Document("".join(tokens), tuple(tokens), values, name="\x1b[31mname", label=0)] * 2
    return Analysis(("\x1b[1ml0", "l1"), texts, label_names=("\x1b[7mclass",), model_name="\x1b[0mmodel")


def harmless(text, keep="\n"):
    return all(char in keep or unicodedata.category(char) not in {"Cc", "Cf", "Cs"} for char in text)


@given(st.lists(st.text(st.characters(), min_size=1, max_size=6) | st.sampled_from(EVIL), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_no_label_table_or_error_passes_a_control_character_on(tokens):
    assert all(harmless(label, "") for label in readable_labels(tokens))
    document = Document("x", tuple(tokens), np.full((1, 1, len(tokens)), 0.5, np.float32))
    assert harmless(token_table(document))
    assert harmless(printable("".join(tokens)), "")
    for kind in (AttvizError, FormatError, ArgumentError):
        assert harmless(str(kind("".join(tokens))), "\n\t")


def test_a_terminal_gets_nothing_to_obey(tmp_path, capsys):
    path = io.save(evil_analysis(), tmp_path / "evil.attviz")
    (tmp_path / "evil.txt").write_text("\x1b[2J\x1b]0;owned\x07 bank\n", encoding="utf-8")
    calls = [
        ["view", str(path), "--layers", "\x1b[31mnone"],
        ["convert", str(path), str(tmp_path / "a.\x1b[31m")],
        ["analyze", "\x1b[31mmodel", str(tmp_path / "evil.txt"), "-o", str(tmp_path / "x.attviz")],
        ["demo", "--file", str(tmp_path / "evil.txt"), "--no-figures"],
    ]
    for call in calls:
        main(call)
        shown = capsys.readouterr()
        progress = re.sub(r"\r|\x1b\[A", "", shown.err)  # tqdm's own
        assert harmless(shown.out + progress), call


def test_every_figure_of_hostile_text_is_well_formed(tmp_path):
    from attviz.analysis.figures import write_figures

    for path in write_figures(evil_analysis(), tmp_path, documents=0, formats=["svg"]):
        ElementTree.parse(path)


def test_cells_of_a_csv_hold_neither_formulas_nor_control_characters(tmp_path):
    cells = [
        "=1",
        "+1",
        "-1",
        "@x",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "\u3000=1",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff20x",
        "\u200b=1",
        "\u22121",
        "a=1",
        "a\x1bb",
    ]
    path = io.to_csv(evil_analysis(cells), tmp_path / "a.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[: len(cells)]
    for cell, row in zip(cells, rows, strict=True):
        assert harmless(row["token"] + row["name"], ""), cell
        assert row["token"].startswith("'") == (not cell.startswith("a")), cell


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (apt-get install texlive-latex-recommended)")
def test_latex_of_hostile_text_compiles_and_prints_it(tmp_path):
    tokens = [*EVIL, *"\\{}$&#%_^~<>|\"'`-,!?", "^^M", "\\input{/etc/passwd}", "é", "日本", "�", "--", "``"]
    io.write_latex(evil_analysis(tokens), tmp_path / "a.tex")
    assert harmless((tmp_path / "a.tex").read_text(encoding="utf-8"))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "a.tex"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    assert shown.returncode == 0, shown.stdout[-2000:]
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


LIMITED = """
import resource, sys
import attviz.io
from attviz.errors import AttvizError
pages = int(open('/proc/self/statm').read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30),) * 2)
for path in sys.argv[1:]:
    try:
        attviz.io.read_attviz_json(path)
    except AttvizError as error:
        print(str(error)[:300].removeprefix(path))
    else:
        print("read")
"""
BOMBS = {
    "lists": (b"[" + b"[]," * 33_000_000, "[0]: must be an object, got a list"),
    "a document of lists": (b'[{"text": "", "x": [' + b"[]," * 33_000_000, "an entry of more than"),
    "digits": (
        b'[{"text": "a", "sets": [{"tokens": ["a"], "attention_vectors": [{"vectors": ["' + b"1" * 6_000_000 + b'x"]}]}]}]',
        "not a number",
    ),
    "a long key": (b'{"' + b"9" * 5000 + b'": {}}', "its keys must be '0', '1'"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by RLIMIT_AS")
def test_bombs_in_json_are_refused_in_little_memory(tmp_path):
    for name, (content, _) in BOMBS.items():
        (tmp_path / f"{name}.json").write_bytes(content)
    command = [sys.executable, "-c", LIMITED, *(str(tmp_path / f"{name}.json") for name in BOMBS)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert shown.returncode == 0, shown.stderr[-1000:]
    for (name, (_, message)), line in zip(BOMBS.items(), shown.stdout.splitlines(), strict=True):
        assert message in line, name


def test_a_class_of_two_hundred_millions_is_refused_before_the_page_names_them_all(tmp_path):
    document = Document("x", ("x",), np.ones((1, 1, 1), np.float32), label=200_000_000)
    with pytest.raises(ArgumentError, match="is of class 200000000; a page shows at most 10000 classes"):
        view(Analysis(("l",), [document]))
    path = io.save(Analysis(("l",), [document]), tmp_path / "a.attviz")
    with pytest.raises(FormatError, match="a class must be a whole number from 0 to 999999, got 200000000"):
        io.load(path).documents[0]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.json", "a.attviz"])
@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a FIFO"), (lambda path: path.symlink_to("/dev/zero"), "a character device")])
def test_special_files_are_refused_as_input(tmp_path, name, make, kind):
    make(tmp_path / name)
    read = {".json": io.read_attviz_json, ".attviz": io.load}.get((tmp_path / name).suffix, read_texts)
    with pytest.raises(FormatError, match=f"is {kind}, not"):
        read(tmp_path / name)


def test_numbers_as_strings_read_as_before(tmp_path):
    for text, value in ((" 0.25 ", 0.25), ("1e-3", 0.001), (".5", 0.5), ("1.", 1.0), ("+0", 0.0)):
        entry = [{"text": "a", "sets": [{"tokens": ["a"], "attention_vectors": [{"vectors": [text]}]}]}]
        (tmp_path / "a.json").write_text(json.dumps(entry))
        assert io.read_attviz_json(tmp_path / "a.json")[0].sets[0].vectors[0].values == (float(np.float32(value)),)
