"""``import attviz`` is light: torch and nothing else that is heavy."""

import subprocess
import sys

import attviz

HEAVY = ("matplotlib", "transformers", "triton", "torchmetrics", "seaborn", "pandas", "wordcloud", "scipy", "safetensors")


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_nothing_heavy():
    script = f"import sys, torch; old = set(sys.modules); import attviz; print([m for m in {HEAVY} if m in set(sys.modules) - old])"
    assert run(script).strip() == "[]"


def test_import_loads_few_modules():
    script = "import sys, torch; before = set(sys.modules); import attviz; print(len(set(sys.modules) - before))"
    assert int(run(script)) < 120  # what makes an import slow is what it drags in; the time itself is benchmarks.imports


def test_public_names_resolve():
    for name in attviz.__all__:
        assert getattr(attviz, name) is not None
    assert {"capture", "analyze", "view", "metrics", "plots", "io", "kernels"} <= set(dir(attviz))
    assert callable(attviz.capture)


def test_unknown_name_is_an_attribute_error():
    assert not hasattr(attviz, "captrue")


def test_dir_shows_what_there_is_to_use_and_nothing_else():
    """No leftovers of how it was built: typing, importlib, helper modules."""
    assert {"capture", "compare", "head_roles", "readings", "view"} <= set(dir(attviz))
    for package in (attviz, attviz.metrics, attviz.plots, attviz.integrations, attviz.io):
        shown = dir(package)
        assert not {"Any", "importlib", "annotations", "TYPE_CHECKING", "recording", "sequences"} & set(shown), package
        assert all(name == "__version__" or not name.startswith("_") for name in shown), package
        for name in set(shown) - {"AttentionCallback", "LightningAttentionCallback"}:  # these import a framework
            assert getattr(package, name) is not None, (package, name)


def test_unknown_keyword_arguments_are_errors():
    import pytest
    import torch

    from attviz.errors import AttvizError

    attention = torch.nn.MultiheadAttention(8, 2)
    metrics, integrations = attviz.metrics, attviz.integrations
    for make in (
        lambda: attviz.capture(attention, evry=5),
        lambda: metrics.HeadStatistics(evry=5),
        lambda: metrics.TokenStatistics(kid="shannon"),
        lambda: metrics.VocabularyStatistics(vocabsize=5),
        lambda: metrics.AttentionHealth(every=5),
        lambda: metrics.HeadRoles(role=("own",)),
        lambda: integrations.AttentionMonitor(evry=5),
        lambda: integrations.AttentionCallback(evry=5),
        lambda: attviz.compare(attention, attention, ["a"], object(), resample=5),
        lambda: attviz.head_roles(attention, vocab=5),
    ):
        with pytest.raises((TypeError, ValueError, AttvizError), match=r"evry|kid|vocabsize|every|role|resample|vocab"):
            make()
