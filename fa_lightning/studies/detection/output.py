"""What an examination leaves: `detection.json`, tables for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.studies.detection.result import ALL_PAIRS, RESULT_NAME, Detection
from fa_lightning.studies.detection.tables import accuracies_table
from fa_lightning.studies.detection.verdict_tables import placed_table, verdicts_table

DETECTION_TABLE, VERDICTS_TABLE, PLACED_TABLE = "detection.csv", "verdicts.csv", "placed.csv"


def write_detection(folder: Path, result: Detection) -> None:
    """Write all files, each all or nothing, `detection.json` last.

    `detection.csv` has a row for each detector, kind of pairs and policy pair; what concerns a detector as a whole
    (from `alarms` on) stands in each of its rows. `verdicts.csv` has a row for each detector and pair, `placed.csv`,
    where there is a population, one for each detector and model.
    """
    tables = {
        DETECTION_TABLE: accuracies_table(result),
        VERDICTS_TABLE: verdicts_table(result),
        PLACED_TABLE: placed_table(result.placed),
    }
    write_result(folder, RESULT_NAME, result, tables)


def scalars(result: Detection) -> dict[str, float]:
    """What is logged: `<detector>/<kind>/accuracy` and `<detector>/auroc`."""
    overall = [share for share in result.accuracies if share.policy_pair == ALL_PAIRS]
    accuracies = {f"{share.detector}/{share.kind}/accuracy": share.value for share in overall}
    return accuracies | {f"{score.detector}/auroc": score.auroc for score in result.alone}
