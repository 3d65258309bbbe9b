"""The package as users get it: one version everywhere, a whole wheel and sdist, and a quick start that runs from the wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
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


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """Python of a new environment with the wheel in it. Its dependencies are lent by this one: a test downloads nothing."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))", place).strip())
    wheel = str(next(dist.glob("*.whl")))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--no-index", "--target", str(site), wheel], check=True
    )
    (site / "lent.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return python


def _ask(python, code, folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quick_start_of_the_readme_runs_word_for_word_from_the_wheel(installed, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    quick_start = re.search(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert quick_start is not None
    said = _ask(installed, quick_start[1] + "\nprint(attviz.__file__, attviz.__version__)", tmp_path)
    assert "previous, row_entropy" in said
    *_, place, version = said.split()
    assert not Path(place).is_relative_to(ROOT / "attviz")  # nox keeps its temporary files in the repository
    assert version == attviz.__version__
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_command_of_the_wheel_runs(installed, tmp_path):
    assert _ask(installed, "import sys; from attviz.cli import main; sys.exit(main(['info', '--json']))", tmp_path).startswith("{")


def test_recipe_and_citation_say_what_the_package_says():
    recipe = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.findall(r'"(.+?)"', project.partition("dependencies = [")[2].partition("]")[0])
    assert len(dependencies) > 8
    other_name = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    for dependency in dependencies:
        name, bound = dependency.split(">=")
        assert f"    - {other_name.get(name, name)} >={bound}\n" in recipe, dependency
    released = attviz.__version__.partition(".dev")[0]
    assert f'version: "{released}"' in recipe
    assert f'version: "{released}"' in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


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
