"""The mutation run can find something: a break that a test holds is noticed, one that nothing holds survives."""

from __future__ import annotations

import ast
from pathlib import Path

from benchmarks import mutations


def tree(folder: Path) -> Path:
    """A package of one function, and a test that holds half of it."""
    (folder / "attviz" / "metrics").mkdir(parents=True)
    (folder / "attviz" / "__init__.py").write_text("")
    (folder / "attviz" / "metrics" / "__init__.py").write_text(
        "def held(x) -> int | None:\n    return x + 2\n\n\ndef loose(x):\n    return x - 5\n"
    )
    (folder / "test_it.py").write_text("from attviz.metrics import held\n\n\ndef test_held():\n    assert held(1) == 3\n")
    (folder / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nmarkers = ["gpu", "interpreter"]\naddopts = "--import-mode=importlib"\n'
    )
    return folder


def test_what_a_test_holds_is_noticed_and_the_rest_survives(tmp_path, monkeypatch):
    monkeypatch.setattr(mutations, "ROOT", tree(tmp_path))
    found = list(mutations.mutations("metrics"))
    assert [(mutation.line, mutation.what) for mutation in found] == [
        (2, "2 -> 3"), (2, "Add -> Sub"), (2, "return without its value"),
        (6, "5 -> 6"), (6, "Sub -> Add"), (6, "return without its value"),
    ]  # fmt: skip
    alive = [mutations.survives(mutation, ["test_it.py"], tmp_path, 60.0) for mutation in (found[1], found[4])]
    assert alive == [False, True]


def test_every_mutation_is_a_program_and_none_is_the_original():
    """Each changes its file, and the file still parses: checked on a sample of every room."""
    for room in mutations.ROOMS:
        found = list(mutations.mutations(room))
        assert len(found) > 100, room
        for mutation in found[:: len(found) // 8]:
            changed, original = mutations.mutated(mutation), (mutations.ROOT / mutation.path).read_text(encoding="utf-8")
            assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(original)), mutation


def test_the_lists_of_tests_exist():
    assert all((mutations.ROOT / test).exists() for tests in mutations.ROOMS.values() for test in tests)


def test_the_tests_near_a_break_come_first():
    fuji = next(mutation for mutation in mutations.mutations("metrics") if mutation.path.name == "fuji.py")
    assert mutations.near(fuji, mutations.ROOMS["metrics"])[0] == "tests/metrics/test_fuji.py"


def test_what_runs_on_a_device_alone_is_not_broken():
    lines = (mutations.ROOT / "attviz" / "kernels" / "tokens.py").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines, 1) if ".register_kernel(" in line)
    broken = {mutation.line for mutation in mutations.mutations("kernels") if mutation.path.name == "tokens.py"}
    assert broken
    assert all(line < first for line in broken)
