"""Layers, heads and documents are asked for in the same words everywhere: page, figures, command line."""

import argparse
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import attviz
from attviz import cli
from attviz.analysis.figures import FIGURES, write_figures
from attviz.cli import COMMANDS, build_parser, plot
from attviz.cli.lists import add_list, add_selectors
from attviz.errors import ArgumentError, UnknownLayerError
from attviz.records import Analysis, Document
from attviz.selecting import choose_documents, choose_layers

ROOT = Path(__file__).parents[1]
RANDOM = np.random.default_rng(0)
ANALYSIS = Analysis(
    ("block.0", "block.1", "block.2"),
    [Document(f"a b {i}", ("a", "b", str(i)), RANDOM.beta(0.5, 4, (3, 4, 3)).astype(np.float32)) for i in range(5)],
)


def parsed(*argv):
    parser = argparse.ArgumentParser()
    add_selectors(parser, "layers", "heads", "documents")
    add_list(parser, "--figures", str, help="")
    return parser.parse_args(argv)


@pytest.mark.parametrize("argv", [("--layers", "1,block.2"), ("--layers", "1", "--layers", "block.2"), ("--layers=1, block.2",)])
def test_a_list_has_commas_or_is_given_several_times(argv):
    assert parsed(*argv).layers == [1, "block.2"]


def test_what_the_command_line_says_is_what_view_takes():
    args = parsed("--layers", "*.1,-1", "--heads", "0,3", "--documents", "4,:2")
    page = attviz.view(ANALYSIS, layers=args.layers, heads=args.heads, documents=args.documents)
    assert page.html.count("a b 4") >= 1
    assert choose_layers(ANALYSIS.layers, args.layers) == [1, 2]
    assert choose_documents(5, args.documents) == [4, 0, 1]


@pytest.mark.parametrize("one", [2, [2], slice(2, 3), iter([2])])
def test_one_or_several_mean_the_same_in_view_and_in_figures(one, tmp_path):
    several = list(one) if not isinstance(one, (int, slice)) else one
    assert "a b 2" in attviz.view(ANALYSIS, documents=several).html
    assert [path.name for path in write_figures(ANALYSIS, tmp_path, figures=["series"], documents=several, dpi=20)] == ["series_0002.png"]


def test_a_single_layer_or_head_needs_no_list():
    one, other = (attviz.view(ANALYSIS, layers=layers, heads=heads).html for layers, heads in (("block.1", 3), (["block.1"], [3])))
    assert one == other


def test_what_does_not_exist_is_refused_by_name():
    with pytest.raises(UnknownLayerError, match="layers='nope' matches none of the 3 layers"):
        attviz.view(ANALYSIS, layers="nope")
    with pytest.raises(ArgumentError, match="document 9 does not exist: there are documents 0 to 4"):
        attviz.view(ANALYSIS, documents=9)
    with pytest.raises(SystemExit):
        parsed("--heads", "one")


def test_the_help_names_every_figure_of_the_registry():
    assert plot._FIGURES.split() == list(FIGURES)


def commands():
    """Every command that the help and the documentation show, without what is said about it."""
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    texts = [line.strip() for page in pages for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("attviz ")]
    texts += re.findall(r"\| `(attviz [^`]+)`", (ROOT / "docs/api/cli.md").read_text(encoding="utf-8"))
    texts += [
        line.strip()
        for text in (cli._EPILOG, *(module.__doc__ for module in build_parser()[1].values()))
        for line in text.splitlines()
        if line.strip().startswith("attviz ")
    ]
    shown = {re.split(r"  +|\s[>|#]", text)[0] for text in texts}
    return sorted(text for text in shown if text.split()[1] in COMMANDS)


@pytest.mark.parametrize("text", commands())
def test_a_command_that_is_shown_can_be_given(text):
    build_parser()[0].parse_args(shlex.split(text)[1:])


def test_the_reference_lists_every_subcommand():
    shown = re.findall(r"^\| `attviz (\w+)", (ROOT / "docs/api/cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(shown) == set(COMMANDS)
