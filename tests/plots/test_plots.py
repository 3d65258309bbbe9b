"""What holds for every figure."""

import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from attviz import plots

VALUES = np.random.default_rng(0).random((3, 5))
TOKENS = ["The", "old", "##er", "$bank$", "."]
CALLS = {
    "aggregates": (lambda **ax: plots.aggregates(VALUES, tokens=TOKENS, **ax)),
    "distributions": (lambda **ax: plots.distributions({"a": VALUES.ravel()}, **ax)),
    "head_curves": (lambda **ax: plots.head_curves(np.stack([VALUES, VALUES / 2]), **ax)),
    "head_map": (lambda **ax: plots.head_map(VALUES, **ax)),
    "head_similarity": (lambda **ax: plots.head_similarity(np.corrcoef(VALUES), **ax)),
    "image_map": (lambda **ax: plots.image_map(VALUES[0], grid=(1, 5), **ax)),
    "quantiles": (lambda **ax: plots.quantiles({"a": VALUES.ravel()}, **ax)),
    "sequence": (lambda **ax: plots.sequence(VALUES, tokens=TOKENS, **ax)),
    "series": (lambda **ax: plots.series(VALUES, tokens=TOKENS, **ax)),
    "token_bars": (lambda **ax: plots.token_bars(VALUES[0], tokens=TOKENS, **ax)),
}


OWN_TESTS = {"head_changes", "head_roles", "word_clouds"}  # several axes, a table of its own


def test_every_figure_is_among_the_calls():
    assert {*CALLS, *OWN_TESTS} == set(plots.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_draws_on_the_axes_given_and_changes_no_setting(name):
    settings = dict(matplotlib.rcParams)
    ax = plt.subplots()[1]
    assert CALLS[name](ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize("name", CALLS)
def test_the_same_input_gives_the_same_picture(name):
    pictures = []
    for _ in range(2):
        figure = CALLS[name]().figure
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba()))
        plt.close(figure)
    np.testing.assert_array_equal(*pictures)


def test_importing_the_package_imports_no_drawing_library():
    code = "import sys, attviz.plots, attviz.spelling; print([m for m in ('matplotlib', 'seaborn', 'wordcloud') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
