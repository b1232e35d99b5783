"""`results.json` of an experiment of detectors, which pandas reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fa_lightning.common.codec import encode
from fa_lightning.common.files import write_atomically
from fa_lightning.evaluation.estimates import NO_INTERVAL, Interval
from fa_lightning.evaluation.results import RESULTS_NAME
from fa_lightning.studies.detection.result import Alone, Detection
from fa_lightning.studies.detection.tables import KINDS, DetectorRow, detector_rows

UNKNOWN = Alone("", math.nan, NO_INTERVAL, math.nan, math.nan, "")


def write_detection_results(root: Path, experiment: str, found: Detection, provenance: Mapping[str, Any]) -> Path:
    """Write `results.json`, all or nothing.

    `detection.detectors` and `detection.accuracies` are lists of flat objects with the same keys, so that
    `pandas.DataFrame(content["detection"]["detectors"])` is the table.

    Args:
        root: the experiment's folder.
        experiment: its name.
        found: what its last stage found.
        provenance: versions, seeds, digests, machine.

    Returns:
        The file written.
    """
    whole = ("scenarios", "confidence", "least_agreement", "refused", "weights", "calibration")
    accuracies = [
        {
            "detector": one.detector,
            "policy_pair": one.policy_pair,
            "kind": one.kind,
            **_columns("accuracy", one.value, one.ci95),
            "pairs": one.pairs,
        }
        for one in found.accuracies
    ]
    content = {
        "experiment": experiment,
        "detection": {
            "detectors": [_record(row) for row in detector_rows(found)],
            "accuracies": accuracies,
            **{name: getattr(found, name) for name in whole},
        },
        "provenance": dict(provenance),
    }
    # The order of keys is that of a table's columns.
    text = json.dumps(encode(content, "results"), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(root / RESULTS_NAME, f"{text}\n".encode())
    return root / RESULTS_NAME


def is_detection_results(path: Path) -> bool:
    """Whether a `results.json` is of an experiment of detectors, and not of steering."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        # Whoever reads it says what is wrong with it.
        return False
    return isinstance(content, dict) and "detection" in content


def _record(row: DetectorRow) -> dict[str, Any]:
    """A detector; what is not known is there too, as null, since all lines of a table have the same columns."""
    record: dict[str, Any] = {"detector": row.ran.name}
    for kind in KINDS:
        one = row.accuracies.get(kind)
        ends = (math.nan, NO_INTERVAL) if one is None else (one.value, one.ci95)
        record |= {**_columns(kind, *ends), f"{kind}_pairs": 0 if one is None else one.pairs}
    alone = row.alone or UNKNOWN
    return {
        **record,
        "false_alarms": row.alarms,
        **_columns("auroc", alone.auroc, alone.auroc_ci95),
        "tpr_at_1_percent_fpr": alone.tpr,
        "fpr_held_out": alone.fpr,
        "folds": alone.folds,
        "seconds": row.ran.seconds,
        "prompts_per_model": row.ran.passes,
        "poser_reports": row.published,
        "rule": row.ran.rule,
    }


def _columns(name: str, value: float, ci95: Interval) -> dict[str, float]:
    """A number and the ends of its interval, under three names."""
    return {name: value, f"{name}_low": ci95[0], f"{name}_high": ci95[1]}
