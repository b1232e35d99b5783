"""What probes leave: `probes.json`, two tables for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.reports.result_files import write_result
from fa_lightning.studies.probes.result import RESULT_NAME, ProbesResult, Reading
from fa_lightning.studies.probes.tables import efficiency_table, readings_table

PROBES_TABLE, EFFICIENCY_TABLE = "probes.csv", "label_efficiency.csv"


def write_probes(folder: Path, result: ProbesResult) -> None:
    """Write all files, each all or nothing, `probes.json` last.

    `probes.csv` has a row for each subject, question, view, probe and site; `label_efficiency.csv` one for each number
    of labels.
    """
    tables = {PROBES_TABLE: readings_table(result), EFFICIENCY_TABLE: efficiency_table(result)}
    write_result(folder, RESULT_NAME, result, tables)


def scalars(result: ProbesResult) -> dict[str, float]:
    """What is logged: `<question>/<view>/<subject>/<probe>/accuracy` and `/auroc` at the best site."""
    logged: dict[str, float] = {}
    for best in result.best:
        for reading in result.at_best(best.subject, best.question, best.view).values():
            name = _logged_name(reading)
            logged |= {f"{name}/accuracy": reading.accuracy, f"{name}/auroc": reading.auroc}
    return logged


def profiles(result: ProbesResult) -> dict[int, dict[str, float]]:
    """By layer, accuracies that TensorBoard draws over layers."""
    by_layer: dict[int, dict[str, float]] = {}
    for reading in result.readings:
        if reading.role == "probe":
            by_layer.setdefault(reading.layer, {})[f"layers/{_logged_name(reading)}"] = reading.accuracy
    return by_layer


def _logged_name(reading: Reading) -> str:
    probe = reading.probe.replace(" ", "_").replace(",", "")
    return f"{reading.question}/{reading.view}/{reading.subject}/{probe}"
