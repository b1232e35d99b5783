"""What an examination found, in files: `detection.json`, which `reading` reads, and two tables for pandas."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fa_lightning.common.codec import encode
from fa_lightning.common.files import columns, write_atomically, write_table
from fa_lightning.metrics.intervals import NO_INTERVAL
from fa_lightning.studies.detection.reader import DETECTION_NAME
from fa_lightning.studies.detection.result import ALL_PAIRS, Alone, Detection

DETECTION_TABLE, VERDICTS_TABLE, PLACED_TABLE = "detection.csv", "verdicts.csv", "placed.csv"
UNKNOWN = Alone("", math.nan, NO_INTERVAL, math.nan, math.nan, "")


def write_detection(folder: Path, found: Detection) -> None:
    """Write all files, each all or nothing, `detection.json` last.

    `detection.csv` has a row for each detector, kind of pairs and policy pair; what concerns a detector as a whole
    (from `alarms` on) stands in each of its rows. `verdicts.csv` has a row for each detector and pair, `placed.csv`,
    where there is a population, one for each detector and model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / DETECTION_TABLE, _accuracy_rows(found))
    write_table(folder / VERDICTS_TABLE, _verdict_rows(found))
    write_table(folder / PLACED_TABLE, [asdict(one) for one in found.placed])
    text = json.dumps(encode(found, DETECTION_NAME), indent=2, allow_nan=False)
    write_atomically(folder / DETECTION_NAME, text.encode())


def scalars(found: Detection) -> dict[str, float]:
    """What is logged: `<detector>/<kind>/accuracy` and `<detector>/auroc`."""
    overall = [one for one in found.accuracies if one.policy_pair == ALL_PAIRS]
    accuracies = {f"{one.detector}/{one.kind}/accuracy": one.value for one in overall}
    return accuracies | {f"{one.detector}/auroc": one.auroc for one in found.alone}


def _accuracy_rows(found: Detection) -> list[dict[str, Any]]:
    ran = {one.name: one for one in found.detectors}
    alone = {one.detector: one for one in found.alone}
    rows = []
    for one in found.accuracies:
        whole = alone.get(one.detector, UNKNOWN)
        rows.append(
            {
                "detector": one.detector,
                "kind": one.kind,
                "policy_pair": one.policy_pair,
                "pairs": one.pairs,
                **columns("accuracy", one.value, one.ci95),
                "alarms": found.alarms.get(one.detector, math.nan),
                **columns("auroc", whole.auroc, whole.auroc_ci95),
                "tpr_at_1_percent_fpr": whole.tpr,
                "fpr_held_out": whole.fpr,
                "seconds": ran[one.detector].seconds,
                "passes": ran[one.detector].passes,
            }
        )
    return rows


def _verdict_rows(found: Detection) -> list[dict[str, Any]]:
    return [
        {
            "detector": one.detector,
            "kind": one.kind,
            "policy_pair": one.policy_pair,
            "one": one.one,
            "other": one.other,
            "suspicion_one": one.suspicion_one,
            "suspicion_other": one.suspicion_other,
            **columns("difference", one.suspicion_one - one.suspicion_other, one.ci95),
            "says": one.says,
            "differs": one.differs,
            "as_far": one.as_far,
            "is_sure": one.is_sure,
            "faker": one.faker,
            "scenarios": one.scenarios,
            "agreed": one.agreed,
        }
        for one in found.verdicts
    ]
