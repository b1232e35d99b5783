"""Files and folders are whole, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fa_lightning.common.files import whole_file, whole_folder, write_atomically


class Steps:
    """Notes what is asked of the operating system, and fails at one of the steps, as at a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int = 0) -> None:
        self.names: list[str] = []
        self.fails_at = fails_at
        for name in ("fsync", "rename", "replace"):
            monkeypatch.setattr(os, name, self._noted(name, getattr(os, name)))
        # What leads through another folder, which may be on another disk.
        for module, name in ((tempfile, "mkstemp"), (tempfile, "mkdtemp"), (shutil, "move")):
            monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("not in the target's own folder"))

    def _noted(self, name: str, real: Any) -> Any:
        def call(*arguments: Any) -> None:
            if name == "replace":
                assert Path(arguments[0]).parent == Path(arguments[1]).parent
            self.names.append(name)
            if len(self.names) == self.fails_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(*arguments)

        return call


def content(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    write_atomically(tmp_path / "deep" / "file.txt", b"new")
    assert steps.names == ["fsync", "replace", "fsync"]
    assert content(tmp_path) == {"deep/file.txt": "new"}


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    (tmp_path / "file.txt").write_text("old")
    Steps(monkeypatch, fails_at)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file.txt", b"new")
    assert content(tmp_path) == {"file.txt": "old"}


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old")
    with suppress(KeyError), whole_file(tmp_path / "file.txt") as file:
        file.write(b"half")
        raise KeyError
    assert content(tmp_path) == {"file.txt": "old"}


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "link.txt").symlink_to("large/file.txt")
    (tmp_path / "linked").symlink_to("large/folder")
    for text in ("first", "second"):
        write_atomically(tmp_path / "link.txt", text.encode())
        with whole_folder(tmp_path / "linked") as fresh:
            (fresh / "file").write_text(text)
        assert content(tmp_path / "large") == {"file.txt": text, "folder/file": text}
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "linked").is_symlink()


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3, 4])
def test_a_folder_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "left over").write_text("old")
    steps = Steps(monkeypatch, fails_at)
    with suppress(OSError), whole_folder(tmp_path / "made") as fresh:
        (fresh / "file").write_text("new")
    if fails_at:
        assert content(tmp_path) == {"made/left over": "old"}
    else:
        # The file, its folder; the old one aside, the new one in its place; the folder that holds both.
        assert steps.names == ["fsync", "fsync", "rename", "replace", "fsync"]
        assert content(tmp_path) == {"made/file": "new"}


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_full_disk_is_told_as_such_in_whatever_words_a_library_has_it(tmp_path: Path, whole: Any) -> None:
    from safetensors import SafetensorError

    with pytest.raises(OSError, match="No space left on device") as full, whole(tmp_path / "new"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'new'}'"), whole(tmp_path / "new"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert full.value.filename == str(tmp_path / "new")
    assert not list(tmp_path.iterdir()), "nothing half-written is left"
    with pytest.raises(SafetensorError, match="header too large"), whole(tmp_path / "new"):
        raise SafetensorError("Error while deserializing header: header too large")
