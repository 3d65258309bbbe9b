"""Layers, heads and documents are asked for in the same words everywhere: page, figures, command line."""

import argparse
import re
import shlex
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import attviz
from attviz import cli, io
from attviz.analysis.figures import FIGURES, write_figures
from attviz.cli import COMMANDS, build_parser, main, plot
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


@pytest.mark.parametrize("layers", ["block", "block.*", slice(3), [0, 1, 2], np.arange(3), range(3), [slice(2), "block.2"], ("*.0", 1, -1)])
def test_layers_mean_the_same_in_a_capture_a_page_a_figure_and_a_file(layers, tmp_path):
    model = torch.nn.Sequential()
    model.block = torch.nn.Sequential(*(torch.nn.TransformerEncoderLayer(8, 4, 8, batch_first=True).self_attn for _ in range(3)))
    session = attviz.capture(model, layers=layers)._session
    assert [name for name in ANALYSIS.layers if name in session.selection] == ["block.0", "block.1", "block.2"]
    assert choose_layers(ANALYSIS.layers, layers) == [0, 1, 2]
    assert attviz.view(ANALYSIS, layers=layers).html == attviz.view(ANALYSIS).html
    drawn, whole = (attviz.plots.head_map(ANALYSIS, **options).images[0].get_array() for options in ({"layers": layers}, {}))
    np.testing.assert_array_equal(drawn, whole)
    written, every = (io.write(ANALYSIS, tmp_path / f"{name}.csv", **given) for name, given in (("a", {"layers": layers}), ("b", {})))
    assert written.read_text() == every.read_text()
    plt.close("all")


@pytest.mark.parametrize("layers", [1.5, [None], [["block.0"]]])
def test_layers_of_another_type_are_refused_everywhere(layers):
    model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 4, 8, batch_first=True), 1)
    with pytest.raises(ArgumentError, match="layers must be names, patterns, indices or slices, got"):
        attviz.capture(model, layers=layers)
    with pytest.raises(ArgumentError, match="layers must be given as indices or slices, got"):
        attviz.view(ANALYSIS, layers=layers)


SETS = ("head_map", "token_bars", "word_clouds", "head_similarity", "distributions", "quantiles")
TEXTS = ("sequence", "series", "aggregates", "image_map")


def drawn_on(ax):
    """Every number that was drawn, without what the figure calls it."""
    found = [np.asarray(image.get_array()) for image in ax.images]
    found += [np.asarray(part) for one in ax.collections for part in (one.get_offsets(), *(path.vertices for path in one.get_paths()))]
    return found + [line.get_xydata() for line in ax.lines] + [np.array(patch.get_bbox()) for patch in ax.patches]


@pytest.mark.parametrize("name", [*SETS, *TEXTS])
def test_every_figure_takes_the_same_selectors(name):
    """A part that was chosen is drawn as the same part made by hand; an array refuses."""
    figure = getattr(attviz.plots, name)
    documents = [2] if name in TEXTS else [2, 4]
    more = {"grid": (1, 3)} if name == "image_map" else {}
    part = [replace(ANALYSIS.documents[place], diagonal=ANALYSIS.documents[place].diagonal[np.ix_([2, 0], [1, 3])]) for place in documents]
    pictures = []
    for source, selectors in ((ANALYSIS, {"layers": [2, "block.0"], "heads": [1, 3], "documents": documents}), (part, {})):
        pictures.append([numbers for ax in np.ravel(figure(source, **selectors, **more)) for numbers in drawn_on(ax)])
        plt.close("all")
    assert pictures[0]
    for one, other in zip(*pictures, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=name)
    with pytest.raises(ArgumentError, match=f"plots.{name}: layers=, heads= and documents= choose from a Capture"):
        figure(np.full((3, 3), 0.5), heads=0, **more)


def test_figures_name_layers_and_heads_by_their_index_in_the_model():
    ax = attviz.plots.head_map(ANALYSIS, layers=[1, 2], heads=[3])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3"]
    ax = attviz.plots.sequence(ANALYSIS, layers=2, heads=[1, 3], documents=0)
    assert {"L2 H1", "L2 H3"} <= {text.get_text() for text in ax.texts}
    assert attviz.plots.word_clouds(ANALYSIS, layers=2, heads=1)[0].get_title() == "layer 2 head 1"
    plt.close("all")


def test_write_figures_and_the_command_take_the_same_selectors(tmp_path):
    options = {"figures": ["head_map", "series"], "layers": "block.1", "heads": slice(2), "documents": 3, "formats": ["svg"]}
    plt.rcParams["svg.hashsalt"] = "same"
    here = [path.name for path in write_figures(ANALYSIS, tmp_path / "here", **options)]
    io.save(ANALYSIS, tmp_path / "a.attviz", precision="float32")
    argv = "--figures head_map,series --layers block.1 --heads :2 --documents 3 --formats svg"
    assert main(["plot", str(tmp_path / "a.attviz"), "-o", str(tmp_path / "there"), *argv.split()]) == 0
    assert here == ["head_map.svg", "series_0003.svg"]
    for name in here:
        one, other = ((tmp_path / folder / name).read_text() for folder in ("here", "there"))
        assert re.sub("<dc:date>.*", "", one) == re.sub("<dc:date>.*", "", other)


@pytest.mark.parametrize("suffix", io.WRITERS)
def test_the_suffix_decides_what_is_written(suffix, tmp_path):
    path = io.write(ANALYSIS, tmp_path / f"a{suffix}", layers=["block.2"], documents=[1, 4])
    assert path.read_bytes()
    if suffix in (".attviz", ".json"):
        back = io.read(path).documents
        assert [document.text for document in back] == ["a b 1", "a b 4"]
        np.testing.assert_array_equal(back[1].diagonal.reshape(4, 3), ANALYSIS.documents[4].diagonal[2])
    if suffix == ".csv":
        head, first, *_ = path.read_text().splitlines()
        assert head.endswith("prediction,L2H0,L2H1,L2H2,L2H3")
        assert first.startswith("1,")


def test_a_suffix_that_nothing_writes_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(ArgumentError, match=r"a.docx: the suffix must be one of .attviz, .json, .csv, .parquet, .tex; got '.docx'"):
        io.write(ANALYSIS, tmp_path / "a.docx")


def test_an_archive_is_replaced_only_if_asked_and_keeps_no_chosen_heads(tmp_path):
    path = io.write(ANALYSIS, tmp_path / "a.attviz")
    with pytest.raises(ArgumentError, match="already exists"):
        io.write(ANALYSIS, path)
    io.write(ANALYSIS, path, documents=0, overwrite=True)
    assert len(io.read(path).documents) == 1
    with pytest.raises(ArgumentError, match="an archive counts its heads from 0, so heads= cannot be kept"):
        io.write(ANALYSIS, tmp_path / "b.attviz", heads=1)


def test_pairs_of_one_head_are_those_of_head_0(tmp_path):
    model = torch.nn.TransformerEncoderLayer(8, 4, 8, batch_first=True)
    with torch.no_grad(), attviz.capture(model, read=[attviz.readings.QueryKey()]) as cap:
        model(torch.randn(1, 3, 8))
    sizes = [len(attviz.view(cap, heads=heads).html) for heads in (0, [0], None)]
    assert sizes[0] == sizes[1] < sizes[2]


def test_the_help_names_every_figure_of_the_registry():
    parser = argparse.ArgumentParser()
    plot.add_arguments(parser)
    assert ", ".join(FIGURES) in " ".join(parser.format_help().split())


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
