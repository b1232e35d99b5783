"""What judging cures leaves: `cures.json`, `cures.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from fa_lightning.reports.result_files import write_result
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.studies.cures.result import RESULT_NAME, CuresResult
from fa_lightning.studies.cures.tables import seeds_table, trials_table

CURES_TABLE = "cures.csv"
STRENGTHS_TABLE = "strengths.csv"


def write_cures(folder: Path, result: CuresResult) -> None:
    """Write `cures.csv`, a row for each method and seed, `strengths.csv`, one for each strength, then `cures.json`.

    Each is written all or nothing.
    """
    tables = {CURES_TABLE: seeds_table(result), **({STRENGTHS_TABLE: trials_table(result)} if result.trials else {})}
    write_result(folder, RESULT_NAME, result, tables)


def scalars(result: CuresResult, test: str) -> dict[str, float]:
    """What is logged: `<test>/<method>/<cell>/accuracy` and `/recovery`, the mean over the seeds of one method."""
    values: dict[str, list[float]] = {}
    for score in result.cures:
        name = f"{test}/{score.method.replace('/', ' ')}"
        for cell in CELLS:
            values.setdefault(f"{name}/{cell}/accuracy", []).append(getattr(score.cells, cell).accuracy)
        values.setdefault(f"{name}/recovery", []).append(score.recovery.value)
    return {name: fmean(each) for name, each in values.items()}
