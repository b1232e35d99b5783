"""What unmasking leaves: `unmask.json`, `unmask.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.studies.unmask.result import RESULT_NAME, SHOWN_TABLE, UnmaskResult
from fa_lightning.studies.unmask.tables import records


def write_unmask(folder: Path, result: UnmaskResult) -> None:
    """Write `unmask.csv`, a row for each model and vector, then `unmask.json`, each all or nothing."""
    write_result(folder, RESULT_NAME, result, {SHOWN_TABLE: records(result)})


def scalars(result: UnmaskResult) -> dict[str, float]:
    """What is logged (see `UnmaskModule`)."""
    # A faker's twin comes before other honest models, and is what it is held to here.
    excess = {
        f"{one.faker}/{one.source}/{'' if one.layer is None else f'layer_{one.layer}/'}excess": one.value.value
        for one in reversed(result.excess)
        if one.dose is None
    }
    return excess | {f"{name}/unwatched": one.misaligned.value for name, one in result.truth.items()}
