"""Files and folders that are written whole or not at all, and tables as CSV."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

_SYSTEM = re.compile(r"\(os error (\d+)\)")


@contextmanager
def whole_file(path: Path, temporary: str = "") -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends: a kill or an error leaves the old file, or none.

    It is on the disk before it is renamed, in the same folder, so that no copy from another file system can be cut
    short. A link stays one; what it leads to is replaced. Folders on the way to it are made.

    Args:
        path: of the file.
        temporary: its name until then, if not one that no other process uses.

    Yields:
        The file, open for bytes.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(temporary or f".{path.name}.{os.getpid()}.tmp")
    try:
        with _told_by_system(path), fresh.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        _sync_folder(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def _told_by_system(path: Path) -> Iterator[None]:
    """Name the path in what the operating system refuses, as by a full disk, also where a library words it anew.

    Raises:
        OSError: with the system's number and `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        # In safetensors' words; torch's say nothing of it.
        match = _SYSTEM.search(str(error))
        if match is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1])), str(path)) from error


def is_plain(path: Path) -> bool:
    """Whether a path is a file on a disk, or would be one: no pipe, terminal or other device, nor an open descriptor.

    >>> is_plain(Path("new.txt")), is_plain(Path("/dev/stdout"))
    (True, False)
    """
    opened = str(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return not opened and (path.is_file() or not path.exists())


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """A `whole_file`; where a path leads to a pipe or another device, that itself, which gets each write at once.

    Yields:
        It, open for bytes.
    """
    if is_plain(path):
        with whole_file(path) as file:
            yield file
        return
    with path.open("wb", buffering=0) as device:
        yield cast(BinaryIO, device)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes the place of `folder` when the block ends; after an error the old one stays.

    Yields:
        The empty folder.
    """
    folder = folder.resolve()
    fresh, aside = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    for left_over in (fresh, aside):
        shutil.rmtree(left_over, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        with _told_by_system(folder):
            yield fresh
        for path in fresh.rglob("*"):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            else:
                _sync_folder(path)
        _sync_folder(fresh)
        # A folder can't be replaced in one step: the older one is moved aside, and back if the new one can't follow.
        replaces = folder.is_dir()
        if replaces:
            os.rename(folder, aside)
        try:
            os.replace(fresh, folder)
        except OSError:
            if replaces:
                os.rename(aside, folder)
            raise
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a `whole_file` in one go."""
    with whole_file(path) as file:
        file.write(data)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; only POSIX systems let a folder be synchronised."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def by_number(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts `10_last` behind `9_first`, and saint-10 behind saint-9, by every number in a path.

    >>> [path.name for path in sorted(map(Path, ["10_b", "9_a", "x"]), key=by_number)]
    ['9_a', '10_b', 'x']
    """
    parts = re.split(r"(\d+)", str(path))
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, all or nothing; what a row does not know is empty. A table without rows is no file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        unknown = {name for name, value in row.items() if isinstance(value, float) and math.isnan(value)}
        writer.writerow({**row, **dict.fromkeys(unknown, "")})
    write_atomically(path, text.getvalue().encode())
