"""The package as users get it: one version everywhere, a whole wheel and sdist, and a quick start that runs from the wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import attviz

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Wheel and sdist, built as a release builds them."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_wheel_and_sdist_pass_the_checks_of_the_index(dist):
    for command in (["twine", "check", "--strict", *map(str, dist.iterdir())], ["check_wheel_contents", str(next(dist.glob("*.whl")))]):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_wheel_holds_the_page_and_no_tests(dist):
    names = zipfile.ZipFile(next(dist.glob("*.whl"))).namelist()
    assert "attviz/viewer/static/page.js" in names
    assert "attviz/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"attviz", f"attviz-{attviz.__version__}.dist-info"}


def test_sdist_holds_what_the_tests_need(dist):
    names = {name.partition("/")[2] for name in tarfile.open(next(dist.glob("*.tar.gz"))).getnames()}
    assert {"tests/test_package.py", "constraints.txt", "noxfile.py", "Makefile", "CHANGELOG.md", "LICENSE"} <= names


def test_wheel_runs_from_a_folder_of_its_own(dist, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--no-index", "--target", str(tmp_path / "site"),
         str(next(dist.glob("*.whl")))], check=True,
    )  # fmt: skip
    script = tmp_path / "quick_start.py"
    script.write_text(
        "import torch, attviz\n"
        "model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()\n"
        "with attviz.capture(model) as cap:\n    model(torch.zeros(1, 4, 8))\n"
        "assert cap.diagonal.shape == (2, 1, 2, 4)\n"
        "print(attviz.__file__, attviz.__version__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:attviz", str(script)], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
    assert done.stdout.split()[-1] == attviz.__version__


def test_the_changelog_has_a_heading_for_this_version():
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == ("Unreleased" if ".dev" in attviz.__version__ else attviz.__version__)


def test_the_version_stands_in_one_place():
    said = [
        str(path.relative_to(ROOT))
        for path in (*ROOT.glob("attviz/**/*.py"), ROOT / "pyproject.toml")
        if re.search(r'^(__version__|version) = "\d', path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert said == ["attviz/_version.py"]
