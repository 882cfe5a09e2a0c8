"""Imports between the rooms of the package go one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "localvit"
# Each room may import those before it.
ROOMS = (
    "system",
    "locality",
    "locality.kernels",
    "data",
    "models",
    "models.weights",
    "models.exported",
    "training",
    "benchmark",
    "evaluation",
    "studies",
    "analysis",
    "commands",
)


def room_of(module: str) -> str:
    """The room that a module such as ``localvit.locality.kernels.fuse`` is in; empty for the package itself."""
    name = f"{module.removeprefix('localvit').removeprefix('.')}."
    return max((room for room in ROOMS if name.startswith(f"{room}.")), key=len, default="")


def imports(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("localvit"))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("localvit"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_those_before_it(room: str) -> None:
    files = [
        path
        for path in (PACKAGE / room.replace(".", "/")).rglob("*.py")
        if room_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts)) == room
    ]
    assert files
    allowed = {*ROOMS[: ROOMS.index(room) + 1], ""}
    against = {
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files
        for module in imports(path)
        if room_of(module) not in allowed
    }
    assert not against


def test_every_module_is_in_a_room() -> None:
    loose = {path.name for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}
    folders = {path.parent.relative_to(PACKAGE).as_posix().replace("/", ".") for path in PACKAGE.rglob("*/*.py")}
    assert {folder.partition(".")[0] for folder in folders} == {room.partition(".")[0] for room in ROOMS}
    assert len({room.partition(".")[0] for room in ROOMS}) <= 10


# Architectures that a reader wants in one piece.
LONG = {"models/pvt.py", "models/t2t.py"}


def test_files_are_short() -> None:
    lines = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {path for path, count in lines.items() if count > 400} == LONG
