"""Files that are written whole or not at all, and tables as CSV."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it: a kill or an error leaves the old file, or none.

    Folders on the way to it are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    writer.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue().encode())


def columns(name: str, value: Any, ends: Sequence[Any]) -> dict[str, Any]:
    """A number and its interval, as three columns of a table."""
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
