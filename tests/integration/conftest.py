"""The toy experiment, run once for all tests that look at it or meddle with a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import run, write_toy


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the toy embedded experiment has run; leave it as it is."""
    place = tmp_path_factory.mktemp("finished")
    write_toy(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run("fit", "--base", "embedded.yaml") == 0
    return place


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished experiment to meddle with; the working folder of the test."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def in_place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The finished experiment itself, put back afterwards: a checkpoint knows its folder by its absolute path."""
    backup = tmp_path / "backup"
    shutil.copytree(finished, backup)
    monkeypatch.chdir(finished)
    yield finished
    monkeypatch.undo()
    shutil.rmtree(finished)
    shutil.copytree(backup, finished)
