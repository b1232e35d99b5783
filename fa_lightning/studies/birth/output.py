"""What watching a birth leaves: `birth.json`, `birth.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.studies.birth.measures import is_early
from fa_lightning.studies.birth.result import RESULT_NAME, STEPS_TABLE, BirthResult
from fa_lightning.studies.birth.tables import records


def write_birth(folder: Path, result: BirthResult) -> None:
    """Write `birth.csv`, a row for each fit and measured step, then `birth.json`, each all or nothing."""
    write_result(folder, RESULT_NAME, result, {STEPS_TABLE: records(result)})


def scalars(result: BirthResult) -> dict[str, float]:
    """What is logged (see `BirthModule`)."""
    logged: dict[str, float] = {}
    for arm in result.arms:
        own = [one for one in result.firings if one.arm == arm.name]
        if arm.turn is not None:
            logged[f"{arm.name}/turn"] = float(arm.turn)
        if arm.name == "control_again":
            logged[f"{arm.name}/early"] = float(sum(one.step is not None for one in own))
        elif own:
            logged[f"{arm.name}/early"] = float(sum(is_early(one, arm.turn) for one in own))
    return logged
