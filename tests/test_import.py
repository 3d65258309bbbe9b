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
