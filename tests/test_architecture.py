"""The house: a file imports only lower floors or its own folder, and stays small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "attviz"
FLOORS = {
    "spelling": -1,  # errors show their text through it
    "_version": 0,
    "names": 0,
    "errors": 0,
    "records": 0,
    "protocols": 0,
    "modes": 0,
    "registry": 0,
    "on_demand": 0,
    "statistics": 0,
    "files": 1,
    "documents": 1,
    "vocabulary": 1,
    "tables": 1,
    "selecting": 1,
    "codes": 1,
    "clustering": 1,
    "_insights": 1,
    "kernels": 1,
    "readings": 1,
    "metrics": 2,
    "plots": 3,
    "viewer": 2,
    "io": 2,
    "calls": 2,
    "hooks": 3,
    "_capture": 4,
    "checking": 5,
    "analysis": 5,
    "integrations": 6,
    "cli": 7,
    "__main__": 8,
    "__init__": 8,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "attviz":
            rooms |= {alias.name for alias in node.names if alias.name in FLOORS}
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("attviz.")}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path):
    own = room(path)
    for other in imported_rooms(path):
        assert other in FLOORS, f"{path}: attviz.{other} stands on no floor; add it to FLOORS and to CONTRIBUTING.md"
        assert other in (own, "errors") or FLOORS[other] < FLOORS[own], f"{path} ({own}) imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_is_one_idea(path: Path):
    text = path.read_text()
    assert text.count("\n") <= 300, f"{path}: {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.end_lineno - node.body[0].lineno + 1 if node.end_lineno else 0
            assert body <= (90 if "triton" in path.parts else 60), f"{path}:{node.lineno} {node.name}: {body} lines"


def test_frames_are_looked_at_in_one_file():
    found = [str(path.relative_to(PACKAGE)) for path in FILES if "_getframe" in path.read_text()]
    assert found == ["hooks/scope/stack.py"]


def test_every_room_is_on_a_floor():
    assert {room(path) for path in FILES} <= set(FLOORS)


# What is no heuristic: attributes of Python, of torch and of our own.
INTERFACES = {
    "__func__", "__code__", "__closure__", "__name__", "_schema", "tags", "_op_dk", "_compiled_call_impl", "get_compiler_config", "_stance",
    "stance", "device_mesh", "placements", "mask_mod", "_flex_attention_autocast_impl", "attviz_observer", "attviz_left", "_bias",
    "add_note",
}  # fmt: skip


def names_asked_for(path: Path) -> set[str]:
    """Attributes that are looked up by a name written out in the call."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    asked = [node.args[1] for node in calls if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr")]
    return {name.value for name in asked if isinstance(name, ast.Constant) and isinstance(name.value, str)}


def test_every_heuristic_by_name_stands_in_one_table():
    """Patterns of names, and attributes that are asked for by name, are in ``names.py``; hooks and calls ask it. The tap knows packages."""
    rooms = [path for room in ("hooks", "calls") for path in (PACKAGE / room).rglob("*.py")]
    assert [path.name for path in rooms if "\nimport re\n" in path.read_text(encoding="utf-8")] == []
    asked = {str(path.relative_to(PACKAGE)): names_asked_for(path) - INTERFACES for path in rooms if "tap" not in path.parts}
    assert {path: names for path, names in asked.items() if names} == {}
