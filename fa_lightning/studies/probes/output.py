"""What probes found, in files: `probes.json`, which `reading` reads, and two tables for pandas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fa_lightning.common.codec import encode
from fa_lightning.common.files import columns, write_atomically, write_table
from fa_lightning.studies.probes.reader import PROBES_NAME
from fa_lightning.studies.probes.result import Labelled, ProbesFound, Reading

PROBES_TABLE, EFFICIENCY_TABLE = "probes.csv", "label_efficiency.csv"


def write_probes(folder: Path, found: ProbesFound) -> None:
    """Write all files, each all or nothing, `probes.json` last.

    `probes.csv` has a row for each subject, question, view, probe and site; `label_efficiency.csv` one for each number
    of labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / PROBES_TABLE, [flat_row(one) for one in found.readings])
    write_table(folder / EFFICIENCY_TABLE, [flat_row(one) for one in found.efficiency])
    text = json.dumps(encode(found, PROBES_NAME), indent=2, allow_nan=False)
    write_atomically(folder / PROBES_NAME, text.encode())


def flat_row(one: Reading | Labelled) -> dict[str, Any]:
    """A reading as a table's row: an interval is two columns, `..._low` and `..._high`."""
    row: dict[str, Any] = {}
    intervals = {"ci95": "accuracy", "auroc_ci95": "auroc"}
    for name, value in asdict(one).items():
        if name in intervals:
            measured = intervals[name]
            row |= columns(measured, getattr(one, measured), value)
        else:
            row[name] = value
    return row


def scalars(found: ProbesFound) -> dict[str, float]:
    """What is logged: `<question>/<view>/<subject>/<probe>/accuracy` and `/auroc` at the best site."""
    logged: dict[str, float] = {}
    for one in found.best:
        for name, reading in found.at_best(one.subject, one.question, one.view).items():
            place = f"{one.question}/{one.view}/{one.subject}/{name.replace(' ', '_').replace(',', '')}"
            logged |= {f"{place}/accuracy": reading.accuracy, f"{place}/auroc": reading.auroc}
    return logged


def profiles(found: ProbesFound) -> dict[int, dict[str, float]]:
    """By layer, accuracies that TensorBoard draws over layers."""
    by_layer: dict[int, dict[str, float]] = {}
    shown: Sequence[Reading] = [one for one in found.readings if one.role == "probe"]
    for one in shown:
        place = f"layers/{one.question}/{one.view}/{one.subject}/{one.probe.replace(' ', '_').replace(',', '')}"
        by_layer.setdefault(one.layer, {})[place] = one.accuracy
    return by_layer
