"""What a study leaves in its folder: tables for pandas, then the result itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fa_lightning.common.codec import write_dataclass
from fa_lightning.reports.table import Table, write_csv


def write_result(folder: Path, name: str, result: Any, tables: Mapping[str, Table]) -> None:
    """Write tables as CSV, each all or nothing, and behind them the result: where it is, all of them are.

    Args:
        folder: is made where it is missing.
        name: of the result's file, JSON.
        result: a dataclass.
        tables: by the name of their file; one without rows is no file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file, table in tables.items():
        write_csv(folder / file, table)
    write_dataclass(folder / name, result)
