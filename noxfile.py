"""The matrix: the same tests on the oldest versions we promise, on the locked ones, and on the newest there are.

    nox -s locked      # what CI runs, in an environment of its own
    nox -s oldest      # every lower bound of pyproject.toml, on the oldest Python
    nox -s newest      # whatever the package index has today
    nox -s lock        # write constraints.txt again

Run it with ``pipx run nox`` or ``pip install nox``. Extra arguments go to make: ``nox -s newest -- tests``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nox

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["locked"]

LOCK = Path("constraints.txt")
TORCH = "2.13.0"  # locked: the CPU build the tests were written against
TRITON = "3.7.1"  # what the ordinary build of this torch requires: with another, the lock could be installed beside the CPU build alone
BUILD = ("hatchling", "editables", "setuptools", "wheel")
ALONE = ("vit-pytorch", "openai-whisper")  # installed without their dependencies, which would replace the CPU build of torch
HELD = ("soupsieve<3",)  # what newer releases need Python 3.11.5 for: Debian 12 has 3.11.2
OF_THEIR_TIME = ("pyparsing<3.3",)  # what the oldest matplotlib calls without a warning
HEADER = """\
# Exact versions of everything that `make demo` and `make test` install, for Python 3.11 and newer. Written by `nox -s lock`.
# torch is the CPU build that the tests were written against. A plain `pip install torch` fetches gigabytes of CUDA.
# triton: the one that the ordinary build of this torch requires. docs/kernels.md is compared with what this compiler makes.
"""


@nox.session(python="3.11")
def locked(session: nox.Session) -> None:
    """Run the tests on the versions of constraints.txt."""
    _install(session, LOCK)
    _make(session)


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """Run the tests on every lower bound that pyproject.toml promises."""
    bounds = Path(session.create_tmp()) / "oldest.txt"
    bounds.write_text("\n".join([*lower_bounds(), *OF_THEIR_TIME]) + "\n")
    _install(session, bounds)
    _make(session)


@nox.session(python="3.11")
def newest(session: nox.Session) -> None:
    """Run the tests on the newest release of everything."""
    _install(session, None)
    session.run("pip", "list")
    _make(session)


@nox.session(python="3.11")
def lock(session: nox.Session) -> None:
    """Resolve everything from scratch and write constraints.txt."""
    session.run("python", "-m", "venv", "--clear", session.virtualenv.location)
    session.install(f"torch=={TORCH}")
    session.install(*BUILD)
    session.install("-e", ".[test]", f"torch=={TORCH}", f"triton=={TRITON}; platform_system == 'Linux'", *HELD)
    session.install("--no-deps", *ALONE)
    frozen = session.run("pip", "freeze", "--all", "--exclude-editable", "--exclude", "pip", silent=True)
    assert frozen is not None
    LOCK.write_text(HEADER + "".join(sorted(_pins(frozen), key=str.lower)))


def lower_bounds() -> list[str]:
    """Return ``name==version`` for each lower bound in pyproject.toml, those of all extras included."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    found = (re.match(r"([A-Za-z0-9._-]+)>=([0-9.]+)", line) for line in asked)
    return sorted({f"{match[1]}=={match[2]}" for match in found if match})


def _pins(frozen: str) -> list[str]:
    """Turn the lines of ``pip freeze`` into ``name==version``: no local builds, no paths of this machine."""
    pins = []
    for line in frozen.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+) @ .*/[A-Za-z0-9_]+-([0-9][^-+%]*)", line):  # a wheel from a folder
            pins.append(f"{match[1]}=={match[2]}\n")
        elif match := re.match(r"([A-Za-z0-9._-]+)==([^+\s]+)", line):
            pins.append(f"{match[1]}=={match[2]}\n")
    return pins


def _install(session: nox.Session, constraints: Path | None) -> None:
    # an environment that is used again would otherwise keep what was the newest when it was made
    pinned = ["--upgrade", "--upgrade-strategy", "eager"] if constraints is None else ["-c", str(constraints)]
    session.install(*pinned, *BUILD)
    session.install(*pinned, "--no-build-isolation", "-e", ".[test]")
    session.install(*pinned, "--no-build-isolation", "--no-deps", *ALONE)


def _make(session: nox.Session) -> None:
    targets = session.posargs or ["tests", "interpreter", "doctests"]
    session.run("make", *targets, f"VENV={session.virtualenv.location}", external=True)
