"""What probes leave: `probes.json`, two tables for pandas, and the numbers that are logged."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.common.codec import write_dataclass
from fa_lightning.reports.table import write_csv
from fa_lightning.studies.probes.result import RESULT_NAME, ProbesResult
from fa_lightning.studies.probes.tables import efficiency_table, readings_table

PROBES_TABLE, EFFICIENCY_TABLE = "probes.csv", "label_efficiency.csv"


def write_probes(folder: Path, result: ProbesResult) -> None:
    """Write all files, each all or nothing, `probes.json` last.

    `probes.csv` has a row for each subject, question, view, probe and site; `label_efficiency.csv` one for each number
    of labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / PROBES_TABLE, readings_table(result))
    write_csv(folder / EFFICIENCY_TABLE, efficiency_table(result))
    write_dataclass(folder / RESULT_NAME, result)


def scalars(result: ProbesResult) -> dict[str, float]:
    """What is logged: `<question>/<view>/<subject>/<probe>/accuracy` and `/auroc` at the best site."""
    logged: dict[str, float] = {}
    for one in result.best:
        for name, reading in result.at_best(one.subject, one.question, one.view).items():
            place = f"{one.question}/{one.view}/{one.subject}/{name.replace(' ', '_').replace(',', '')}"
            logged |= {f"{place}/accuracy": reading.accuracy, f"{place}/auroc": reading.auroc}
    return logged


def profiles(result: ProbesResult) -> dict[int, dict[str, float]]:
    """By layer, accuracies that TensorBoard draws over layers."""
    by_layer: dict[int, dict[str, float]] = {}
    for one in result.readings:
        if one.role != "probe":
            continue
        place = f"layers/{one.question}/{one.view}/{one.subject}/{one.probe.replace(' ', '_').replace(',', '')}"
        by_layer.setdefault(one.layer, {})[place] = one.accuracy
    return by_layer
