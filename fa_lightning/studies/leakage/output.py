"""What a leakage evaluation leaves: `leakage.json`, `leakage.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.common.codec import write_dataclass
from fa_lightning.reports.table import write_csv
from fa_lightning.studies.leakage.result import LEAKAGE_TABLE, MEASURES, RESULT_NAME, Leakage
from fa_lightning.studies.leakage.tables import measures_table


def write_leakage(folder: Path, found: Leakage) -> None:
    """Write `leakage.csv`, a row for each model, then `leakage.json`, each all or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / LEAKAGE_TABLE, measures_table(found))
    write_dataclass(folder / RESULT_NAME, found)


def scalars(found: Leakage) -> dict[str, float]:
    """What is logged (see `LeakageModule`)."""
    values: dict[str, float] = {}
    for model in found.models:
        values |= {f"{model.name}/{measure}": model.scores[measure].value for measure in MEASURES}
        values |= {f"{model.name}/excess/{one.measure}": one.excess for one in model.findings}
        if model.passes is not None:
            values[f"{model.name}/passes"] = float(model.passes)
    return values


def sample_texts(found: Leakage) -> dict[str, str]:
    """By model, the continuations that hold most of the corpus, for TensorBoard."""
    return {
        model.name: "\n\n".join(
            f"**{one.prompt}**, seed {one.seed}: {one.longest} tokens of the corpus in a row"
            f"{'' if one.has_ended else ', not ended'}\n\n```\n{one.text}\n```"
            for one in model.samples
        )
        for model in found.models
    }
