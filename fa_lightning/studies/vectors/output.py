"""What the study of vectors leaves: `vectors.json`, `vectors.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.studies.vectors.result import POINTS_TABLE, RESULT_NAME, VectorsResult
from fa_lightning.studies.vectors.tables import points_table


def write_vectors(folder: Path, result: VectorsResult) -> None:
    """Write `vectors.csv`, a row for each point, then `vectors.json`, each all or nothing."""
    write_result(folder, RESULT_NAME, result, {POINTS_TABLE: points_table(result)})


def scalars(result: VectorsResult) -> dict[str, float]:
    """What is logged (see `VectorsModule`)."""
    values: dict[str, float] = {}
    for spot in result.spots:
        if spot.layer is not None:
            place = {"effect": spot.effect.value, "layer": float(spot.layer), "dose": spot.dose}
            values |= {f"{spot.concept}/{spot.kind}/{name}": value for name, value in place.items()}
    return values
