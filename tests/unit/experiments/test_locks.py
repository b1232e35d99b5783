"""One run at a time in a folder: who holds a lock, who may take it over, and what the others are told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only

from fa_lightning.errors import UserError
from fa_lightning.experiments import locks
from fa_lightning.experiments.locks import FolderLocks, began, lock_of

posix = pytest.mark.skipif(os.name != "posix", reason="kills and forks")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this host."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def hold(folder: Path, process: int, **changed: Any) -> Path:
    """A lock as another process leaves it."""
    owner = {
        "host": socket.gethostname(),
        "process": process,
        "began": began(process),
        "since": "2026-01-02 03:04",
    }
    path = lock_of(folder)
    path.write_text(json.dumps(owner | changed))
    return path


def test_a_lock_lies_beside_the_folder_and_says_whose_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "02_aligned"
    with FolderLocks() as held:
        held.take(folder)
        owner = json.loads((tmp_path / ".02_aligned.lock").read_text())
        assert (owner["host"], owner["process"]) == (socket.gethostname(), os.getpid())
        # Within one process a lock is held once, whoever asks.
        with FolderLocks() as inner:
            inner.take(folder)
        assert lock_of(folder).is_file()
    assert list(tmp_path.iterdir()) == []


def test_an_error_gives_it_back(tmp_path: Path) -> None:
    with suppress(KeyError), FolderLocks() as held:
        held.take(tmp_path / "a")
        held.take(tmp_path / "b")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_another_working_folder_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with FolderLocks() as held:
        held.take(Path("02_aligned"))
        monkeypatch.chdir("elsewhere")
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


@posix
def test_a_linked_folder_has_one_lock_by_both_names(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "link").symlink_to("large")
    hold(tmp_path / "large", other.pid)
    with pytest.raises(UserError, match="link is in use by"), FolderLocks() as held:
        held.take(tmp_path / "link")


def test_a_living_owner_is_named_and_keeps_it(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    path = hold(tmp_path / "02_aligned", other.pid)
    before = path.read_text()
    message = rf"02_aligned is in use by process {other.pid} of this host since 2026-01-02 03:04: wait until it ends"
    with pytest.raises(UserError, match=message), FolderLocks() as held:
        held.take(tmp_path / "02_aligned")
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_of_another_host_is_named_with_the_file_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hold(tmp_path / "02_aligned", 1, host="elsewhere")
    with (
        pytest.raises(UserError, match=r"by process 1 on host elsewhere .* If it is gone, delete \.02_aligned\.lock"),
        FolderLocks() as held,
    ):
        held.take(tmp_path / "02_aligned")


def test_what_is_no_lock_is_named_and_left(tmp_path: Path) -> None:
    lock_of(tmp_path / "02_aligned").write_text("mine")
    with pytest.raises(UserError, match=r"\.02_aligned\.lock is a lock that does not say whose"), FolderLocks() as held:
        held.take(tmp_path / "02_aligned")
    assert lock_of(tmp_path / "02_aligned").read_text() == "mine"


@posix
@pytest.mark.parametrize("ending", ["killed", "killed, nobody asked", "its id is another process's"])
def test_a_dead_owners_lock_is_taken_over(tmp_path: Path, other: subprocess.Popen[bytes], ending: str) -> None:
    folder = tmp_path / "02_aligned"
    hold(folder, other.pid)
    if ending == "its id is another process's":
        hold(folder, other.pid, began="12345")
    else:
        os.kill(other.pid, signal.SIGKILL)
        if ending == "killed":
            other.wait()
        else:
            while began(other.pid) != "ended":
                time.sleep(0.01)
    with FolderLocks() as held:
        held.take(folder)
        assert json.loads(lock_of(folder).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not began(os.getpid()), reason="the system does not tell when a process began")
def test_an_earlier_process_of_the_same_id_was_another_one(tmp_path: Path) -> None:
    """As in a container that is started again, where ids are small and come back."""
    hold(tmp_path / "02_aligned", os.getpid(), began="1")
    with FolderLocks() as held:
        held.take(tmp_path / "02_aligned")
        assert json.loads(lock_of(tmp_path / "02_aligned").read_text())["began"] == began(os.getpid())
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_one_gets_it(tmp_path: Path, stale: bool) -> None:
    folder = tmp_path / "02_aligned"
    if stale:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        hold(folder, gone.pid, began="1")
    start, end = os.pipe(), os.pipe()
    children = []
    for _ in range(16):
        child = os.fork()
        if child == 0:
            os.close(start[1])
            os.close(end[1])
            os.read(start[0], 1)
            locks.os.getppid = lambda: 0  # type: ignore[assignment]
            try:
                FolderLocks().take(folder)
                status = 0
            except UserError:
                status = 1
            # Whoever got it lives until all have tried.
            os.read(end[0], 1)
            os._exit(status)
        children.append(child)
    os.close(start[0])
    os.close(start[1])
    time.sleep(1)
    os.close(end[0])
    os.close(end[1])
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(statuses) == [0] + [1] * 15


def test_rank_zero_holds_it_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    hold(tmp_path / "02_aligned", 1, host="elsewhere")
    with FolderLocks() as held:
        held.take(tmp_path / "02_aligned")
    assert lock_of(tmp_path / "02_aligned").is_file()
