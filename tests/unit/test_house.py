"""The rules of the house: data flows down the rooms, so imports point up the list only, and no study knows another."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "fa_lightning"
ROOMS = (
    "errors",
    "common",
    "scenarios",
    "metrics",
    "backbones",
    "activations",
    "regressors",
    "steering",
    "training",
    "evaluation",
    "reports",
    "studies",
    "experiments",
    "cli",
    "__main__",
)
"""Each imports itself and those before it; `__init__` names what it hands on and is in no room."""


@cache
def imports() -> dict[str, frozenset[str]]:
    """The modules of the package, and those of it that each one imports, wherever in its file."""
    trees = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py"
    }
    return {name: frozenset(_named_in(tree, trees.keys())) for name, tree in trees.items()}


def _named_in(tree: ast.Module, known: Collection[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fa_lightning."):
            name = str(node.module).removeprefix("fa_lightning.")
            for alias in node.names:
                yield f"{name}.{alias.name}" if f"{name}.{alias.name}" in known else name


def room_of(name: str) -> str:
    return name.partition(".")[0]


def study_of(name: str) -> str:
    return name.split(".")[1]


def test_every_file_is_in_a_room() -> None:
    assert {room_of(name) for name in imports()} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_those_before_it(room: str) -> None:
    below = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if room_of(name) == room and ROOMS.index(room_of(other)) > ROOMS.index(room)
    ]
    assert below == [], f"the rooms are {' -> '.join(ROOMS)}"


def test_a_study_imports_no_other_study() -> None:
    foreign = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        # The files of the room itself stand above its studies.
        if room_of(name) == room_of(other) == "studies" and name.count(".") > 1 and study_of(other) != study_of(name)
    ]
    assert foreign == [], "what two studies use belongs into a room before them"


def test_a_study_s_folder_is_named_in_no_file_outside_of_it() -> None:
    folders = {path.name for path in (PACKAGE / "studies").iterdir() if path.is_dir()}
    # Modules by their full names or, in a text, without the package's; a base's keys, as `studies.cures`, are others.
    named = [
        f"{path.relative_to(PACKAGE)} names {study}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for study in re.findall(r"(?:fa_lightning\.|[\"'])studies\.(\w+)", path.read_text())
        if study in folders and not path.is_relative_to(PACKAGE / "studies" / study)
    ]
    assert named == [], "the row in studies/registry.py is all that the package knows of a study"


def test_no_files_import_each_other_in_a_circle() -> None:
    def reached(name: str) -> set[str]:
        found: set[str] = set()
        waiting = [name]
        while waiting:
            new = imports().get(waiting.pop(), frozenset()) - found
            found |= new
            waiting += new
        return found

    assert [name for name in imports() if name in reached(name)] == []
