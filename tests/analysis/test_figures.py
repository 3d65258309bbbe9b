"""Every figure of an analysis is written, for few and for many heads, and nothing stays open."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from attviz.analysis.figures import FIGURES, write_figures
from attviz.errors import ArgumentError
from attviz.plots._source import FigureSource
from attviz.records import Analysis, Document
from attviz.selecting import choose_part
from attviz.vocabulary import vocabulary

WORDS = "the old bridge over river bank was closed open late".split()


def analysis(num_heads=4, num_documents=5, grid=None):
    generator = np.random.default_rng(0)
    documents = []
    for number in range(num_documents):
        tokens = ("[CLS]", *generator.choice(WORDS, 6), "[SEP]")
        special = np.array([token.startswith("[") for token in tokens])
        values = generator.beta(0.4, 6, (2, num_heads, 8)).astype(np.float16)
        documents.append(Document(" ".join(tokens[1:-1]), tokens, values, special=special, name=str(number), grid=grid))
    return Analysis(("l0", "l1"), documents)


def test_every_figure_is_written_and_closed(tmp_path):
    paths = list(write_figures(analysis(), tmp_path, documents=[0, 4], dpi=40))
    assert {path.stem.rstrip("_0123456789") for path in paths} == set(FIGURES) - {"image_map"}
    assert all(path.stat().st_size > 1000 for path in paths)
    assert [path.name for path in paths[:2]] == ["sequence_0000.png", "sequence_0004.png"]
    assert plt.get_fignums() == []


def test_many_heads_are_drawn_as_layers_in_the_sequence(tmp_path):
    assert [path.name for path in write_figures(analysis(16), tmp_path, figures=["sequence"], documents=[1], formats=["svg"])] == [
        "sequence_0001.svg"
    ]
    assert "mean L1" in (tmp_path / "sequence_0001.svg").read_text()


def test_patches_are_drawn_over_their_grid(tmp_path):
    assert [path.name for path in write_figures(analysis(grid=(2, 3)), tmp_path, figures=["image_map"], documents=[0])] == [
        "image_map_0000.png"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"figures": ["pie"]}, "write_figures: figures must be among sequence, series, .*; got 'pie'"),
        ({"heads": 4}, "heads contains 4, but the model has heads 0 to 3"),
        ({"cloud_weight": "count"}, "cloud_weight must be one of 'count_top', 'mean', 'sum'; got 'count'"),
        ({"documents": [9]}, "document 9 does not exist: there are documents 0 to 4"),
        ({"formats": ["doc"], "figures": ["head_map"]}, "matplotlib cannot write the format 'doc'"),
    ],
)
def test_bad_input_is_named(tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        list(write_figures(analysis(), tmp_path, **options))
    assert plt.get_fignums() == []


def test_a_file_is_not_a_folder_of_figures(tmp_path):
    (tmp_path / "run.attviz").touch()
    with pytest.raises(ArgumentError, match=r"run.attviz: is a file, but figures are written into a folder"):
        list(write_figures(analysis(), tmp_path / "run.attviz"))


def test_an_analysis_without_documents_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="no documents"):
        list(write_figures(Analysis(("l0",), []), tmp_path))


def test_bars_of_a_head_and_weights_of_clouds():
    one = analysis()
    table = vocabulary(one)
    part = choose_part(one, layers=1, heads=2, who="test")
    mean, std, largest = FigureSource(part.analysis, [0], 1).vocabulary.pooled()
    np.testing.assert_allclose(mean, table.mean[:, 1, 2])
    np.testing.assert_allclose(std, table.std[:, 1, 2])
    np.testing.assert_array_equal(largest, table.max[:, 1, 2])
    sums = FigureSource(one, [0], 1, cloud_weight="sum").cloud_weights()
    np.testing.assert_allclose(sums[:, 6], table.mean[:, 1, 2] * table.count)
    np.testing.assert_array_equal(FigureSource(one, [0], 1).cloud_weights(), table.top.reshape(len(table.tokens), -1))


def words_of(path):
    return path.read_text(encoding="utf-8")


def test_special_tokens_are_left_out_of_figures_unless_asked_for():
    one = analysis(num_documents=1)
    loud = one.documents[0].diagonal.copy()
    loud[:, :, [0, -1]] = 0.995
    one = Analysis(one.layers, [Document(one.documents[0].text, one.documents[0].tokens, loud, special=one.documents[0].special)])
    out, whole = FigureSource(one, [0]), FigureSource(one, [0], special=True)
    words = loud[:, :, 1:-1].astype(np.float64)
    np.testing.assert_allclose(out.head_means(), words.mean(2))
    np.testing.assert_allclose(whole.head_means(), loud.astype(np.float64).mean(2))
    assert np.isnan(out.values(one.documents[0])[:, :, [0, -1]]).all()
    assert out.token_values["max"].max() < 0.99
    assert whole.token_values["max"].max() > 0.99
    assert "[CLS]" not in out.vocabulary.tokens
    assert "[CLS]" in whole.vocabulary.tokens


@pytest.mark.parametrize("figure", ["series", "sequence", "head_map", "token_bars"])
def test_a_caption_names_model_and_document_and_covers_nothing(tmp_path, figure):
    one = analysis()
    one = Analysis(one.layers, one.documents, model_name="a-model")
    plt.rcParams["svg.fonttype"] = "none"
    plain = next(write_figures(one, tmp_path / "plain", figures=[figure], documents=[2], formats=["svg"]))
    captioned = next(write_figures(one, tmp_path / "captioned", figures=[figure], documents=[2], formats=["svg"], caption=True))
    assert "a-model · " + ("document 2" if figure in ("series", "sequence") else "5 documents") in words_of(captioned)
    assert "a-model" not in words_of(plain)
    height = [float(words_of(path).split('height="')[1].split("pt")[0]) for path in (plain, captioned)]
    assert height[1] == pytest.approx(height[0] + 0.26 * 72, abs=1)
