"""What judging variants leaves: `variants.json`, `variants.csv` for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.studies.variants.result import RESULT_NAME, VariantsResult
from fa_lightning.studies.variants.tables import models_table

VARIANTS_TABLE = "variants.csv"


def write_variants(folder: Path, result: VariantsResult) -> None:
    """Write `variants.csv`, a row for each model and test set, then `variants.json`, each all or nothing."""
    write_result(folder, RESULT_NAME, result, {VARIANTS_TABLE: models_table(result)})


def scalars(result: VariantsResult) -> dict[str, float]:
    """What is logged: `<test set>/<variant>/<cell>/accuracy`, `/recovery`, and the same of a steered one."""
    logged: dict[str, float] = {}
    for test, scores in result.tests.items():
        for score in scores:
            name = f"{test}/{score.variant}" + "/steered" * score.steered
            if score.recovery is not None:
                logged[f"{name}/recovery"] = score.recovery.value
            logged |= {f"{name}/{cell}/accuracy": getattr(score.cells, cell).accuracy for cell in CELLS}
    return logged
