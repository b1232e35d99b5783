"""What transfer leaves: `transfer.json`, `transfer.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.studies.transfer.result import RESULT_NAME, TRIALS_TABLE, TransferResult
from fa_lightning.studies.transfer.tables import records


def write_transfer(folder: Path, result: TransferResult) -> None:
    """Write `transfer.csv`, a row for each cure and model, then `transfer.json`, each all or nothing."""
    write_result(folder, RESULT_NAME, result, {TRIALS_TABLE: records(result)})


def scalars(result: TransferResult) -> dict[str, float]:
    """What is logged (see `TransferModule`)."""
    return {
        f"{one.method}/{one.origin}/recovery".replace(" ", "_"): one.recovery.value
        for one in result.totals
        if one.on == "faking"
    }
