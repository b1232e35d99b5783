"""What a leakage evaluation leaves: `leakage.json`, `leakage.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.studies.leakage.result import LEAKAGE_TABLE, MEASURES, RESULT_NAME, Leakage
from fa_lightning.studies.leakage.tables import measures_table


def write_leakage(folder: Path, result: Leakage) -> None:
    """Write `leakage.csv`, a row for each model, then `leakage.json`, each all or nothing."""
    write_result(folder, RESULT_NAME, result, {LEAKAGE_TABLE: measures_table(result)})


def scalars(result: Leakage) -> dict[str, float]:
    """What is logged (see `LeakageModule`)."""
    values: dict[str, float] = {}
    for model in result.models:
        values |= {f"{model.name}/{measure}": model.scores[measure].value for measure in MEASURES}
        values |= {f"{model.name}/excess/{finding.measure}": finding.excess for finding in model.findings}
        if model.passes is not None:
            values[f"{model.name}/passes"] = float(model.passes)
    return values


def sample_texts(result: Leakage) -> dict[str, str]:
    """By model, the continuations that hold most of the corpus, for TensorBoard."""
    return {
        model.name: "\n\n".join(
            f"**{sample.prompt}**, seed {sample.seed}: {sample.longest} tokens of the corpus in a row"
            f"{'' if sample.has_ended else ', not ended'}\n\n```\n{sample.text}\n```"
            for sample in model.samples
        )
        for model in result.models
    }
