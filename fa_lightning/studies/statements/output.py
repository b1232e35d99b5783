"""What judging statements leaves: `safe_score.json`, `safe_score.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.studies.statements.result import RESULT_NAME, SAFE_TABLE, StatementsResult
from fa_lightning.studies.statements.tables import scores_table


def write_statements(folder: Path, result: StatementsResult) -> None:
    """Write `safe_score.csv`, a row for each model, question and part, then `safe_score.json`, each all or nothing."""
    write_result(folder, RESULT_NAME, result, {SAFE_TABLE: scores_table(result)})


def scalars(result: StatementsResult) -> dict[str, float]:
    """What is logged: `<model>/<template>/<claim>/safe_score` and `/moved`."""
    scores = {
        f"{model}/{question}/safe_score": scores.overall.score
        for model, by_question in result.scores.items()
        for question, scores in by_question.items()
    }
    moved = {
        f"{model}/{question}/moved": shift.moved
        for model, shifts in result.shifts.items()
        for question, shift in shifts.items()
    }
    return {**scores, **moved}
