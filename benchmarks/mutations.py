"""Do the tests hold what they say? Breaks the code in one small place at a time and lists the breaks that no test notices.

    python -m benchmarks.mutations                      a sample of 24 over hooks, calls, kernels and metrics, within ten minutes
    python -m benchmarks.mutations --room calls --sample 100 --seed 1
    python -m benchmarks.mutations --list --room metrics

The tree is copied; nothing in it is changed. Mutations are those of cosmic-ray and mutmut: a comparison turned, plus for minus, a number
off by one, `and` for `or`, a condition negated, a `return` without its value. Both tools run one suite for every mutation, which takes
hours here; this one has a list of tests for each room that have to notice, those near the broken file first. Errors and their words
are left out, and so is what runs on a device alone. Exit code 1 if a mutation survives.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The tests that answer for a room: the quick ones first.
ROOMS: dict[str, tuple[str, ...]] = {
    "calls": ("tests/calls", "tests/readings", "tests/test_capture.py", "tests/checking", "tests/test_decoding.py"),
    "kernels": (
        "tests/kernels/test_logsumexp.py",
        "tests/kernels/test_qk.py",
        "tests/kernels/test_weights.py",
        "tests/kernels/test_tokens.py",
        "tests/kernels/test_index.py",
        "tests/kernels/test_self_score.py",
        "tests/calls",
    ),
    "metrics": ("tests/metrics",),
    "hooks": (
        "tests/test_capture.py",
        "tests/evidence",
        "tests/hooks/tap",
        "tests/hooks/session",
        "tests/test_hygiene.py",
        "tests/test_compile.py",
    ),
}
_NOT_RUN_HERE = ("triton", "messages.py")  # kernels for a device; words
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One break: the ``number``-th of its file."""

    path: Path
    number: int
    line: int
    what: str


class _Mutator(ast.NodeTransformer):
    """Counts every place that can be broken, and breaks one of them."""

    def __init__(self, chosen: int | None) -> None:
        self.chosen, self.found = chosen, list[tuple[int, str]]()

    def _here(self, node: ast.AST, what: str) -> bool:
        self.found.append((getattr(node, "lineno", 0), what))
        return len(self.found) - 1 == self.chosen

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node  # what an error says

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        on_a_device = any(isinstance(one, ast.Call) and ast.unparse(one.func).endswith(".register_kernel") for one in node.decorator_list)
        if not on_a_device:
            node.returns, returns = None, node.returns  # an annotation does nothing
            self.generic_visit(node)
            node.returns = returns
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        other = _COMPARISONS.get(type(node.ops[0]))
        if len(node.ops) == 1 and other is not None and self._here(node, f"{type(node.ops[0]).__name__} -> {other.__name__}"):
            node.ops = [other()]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = _ARITHMETIC.get(type(node.op))
        if other is not None and self._here(node, f"{type(node.op).__name__} -> {other.__name__}"):
            node.op = other()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        if self._here(node, f"{type(node.op).__name__} -> {other.__name__}"):
            node.op = other()
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) is int and self._here(node, f"{node.value} -> {node.value + 1}"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        if type(node.value) is bool and self._here(node, f"{node.value} -> {not node.value}"):
            return ast.copy_location(ast.Constant(not node.value), node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not typing_only and self._here(node, "if -> if not"):
            node.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if node.value is not None and self._here(node, "return without its value"):
            node.value = None
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        return node  # defaults are part of the surface, and the documents say them

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node


def mutations(room: str) -> Iterator[Mutation]:
    """Every break of a room, in order."""
    for path in sorted((ROOT / "attviz" / room).rglob("*.py")):
        if any(part in _NOT_RUN_HERE for part in path.parts):
            continue
        mutator = _Mutator(None)
        mutator.visit(ast.parse(path.read_text(encoding="utf-8")))
        for number, (line, what) in enumerate(mutator.found):
            yield Mutation(path.relative_to(ROOT), number, line, what)


def mutated(mutation: Mutation) -> str:
    """The source of the file with the break in it."""
    tree = ast.parse((ROOT / mutation.path).read_text(encoding="utf-8"))
    return ast.unparse(ast.fix_missing_locations(_Mutator(mutation.number).visit(copy.deepcopy(tree))))


def near(mutation: Mutation, tests: Sequence[str]) -> list[str]:
    """Files of tests that are named after the broken file or import it, so a break is noticed in seconds."""
    module = ".".join(mutation.path.with_suffix("").parts)
    places = [ROOT / test for test in tests]
    files = [file for place in places for file in (sorted(place.rglob("test_*.py")) if place.is_dir() else [place])]
    named = [file for file in files if file.stem == f"test_{mutation.path.stem.strip('_')}"]
    using = [file for file in files if file not in named and re.search(rf"\b{re.escape(module)}\b", file.read_text(encoding="utf-8"))]
    return [str(file.relative_to(ROOT)) for file in (*named, *using)]


def survives(mutation: Mutation, tests: Sequence[str], copied: Path, seconds: float) -> bool:
    """Whether the tests of the room pass with the break; one that hangs is noticed."""
    place = copied / mutation.path
    original = place.read_text(encoding="utf-8")
    place.write_text(mutated(mutation), encoding="utf-8")
    try:
        return all(_pass(some, copied, seconds) for some in (near(mutation, tests), tests) if some)
    finally:
        place.write_text(original, encoding="utf-8")


def _pass(tests: Sequence[str], copied: Path, seconds: float) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not interpreter and not gpu", *tests]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment = {**inherited, "PYTHONPATH": str(copied), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        code = subprocess.run(command, cwd=copied, env=environment, capture_output=True, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return False
    return code in (0, 5)  # 5: the near tests are all for the interpreter


def main(argv: Sequence[str] | None = None) -> int:
    """Break, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", action="append", choices=sorted(ROOMS), help="may be given several times; all by default")
    parser.add_argument("--sample", type=int, default=24, help="breaks to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="start no further break after so long (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="count what could be broken, and run nothing")
    args = parser.parse_args(argv)
    rooms = args.room or sorted(ROOMS)
    every = {room: list(mutations(room)) for room in rooms}
    if args.list:
        for room, found in every.items():
            print(f"{room}: {len(found)} mutations in {len({mutation.path for mutation in found})} files")
        return 0
    chosen = random.Random(args.seed)
    sample = [
        (room, mutation) for room in rooms for mutation in chosen.sample(every[room], min(len(every[room]), args.sample // len(rooms)))
    ]
    chosen.shuffle(sample)
    started, tried, survivors = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder, "tree")
        ignored = shutil.ignore_patterns(".git", ".venv", "node_modules", "__pycache__", ".nox", "*.csv")
        shutil.copytree(ROOT, copied, ignore=ignored)
        for room, mutation in sample:
            if time.monotonic() - started > 60 * args.minutes:
                break
            tests = [test for test in ROOMS[room] if (ROOT / test).exists()]
            alive = survives(mutation, tests, copied, 600.0)
            tried, survivors = tried + 1, survivors + alive
            print(f"{'SURVIVES' if alive else 'noticed '}  {mutation.path}:{mutation.line}  {mutation.what}", flush=True)
    print(f"{tried - survivors} of {tried} noticed, {survivors} survive (seed {args.seed}, {len(sample)} in the sample)")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
