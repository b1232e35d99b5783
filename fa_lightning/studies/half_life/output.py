"""What half-lives leave: `half_life.json`, `half_life.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

import math
from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.studies.half_life.result import CURVES_TABLE, RESULT_NAME, HalfLifeResult
from fa_lightning.studies.half_life.tables import records


def write_half_life(folder: Path, result: HalfLifeResult) -> None:
    """Write `half_life.csv`, a row for each cure, attack and amount, then `half_life.json`, each all or nothing."""
    write_result(folder, RESULT_NAME, result, {CURVES_TABLE: records(result)})


def scalars(result: HalfLifeResult) -> dict[str, float]:
    """What is logged (see `HalfLifeModule`)."""
    values: dict[str, float] = {}
    for curve in result.curves:
        name = f"{curve.cure}/{curve.attack}"
        values[f"{name}/recovery_at_last"] = curve.points[-1].recovery.value
        values[f"{name}/half_life"] = curve.recovery.amount
        values[f"{name}/faking_back"] = curve.honesty.amount
    return {name: value for name, value in values.items() if math.isfinite(value)}
