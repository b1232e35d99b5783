"""`results.json` of an experiment of cures, which pandas reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fa_lightning.common.codec import encode
from fa_lightning.common.files import write_atomically
from fa_lightning.evaluation.results import RESULTS_NAME
from fa_lightning.studies.cures.cure_rows import flat_record
from fa_lightning.studies.cures.tables import CuresFound


def write_cures_results(root: Path, experiment: str, found: CuresFound, provenance: Mapping[str, Any]) -> Path:
    """Write `results.json`, all or nothing.

    `cures` is a list of flat objects with the columns of `cures.csv`, so that `pandas.DataFrame(content["cures"])` is
    the table.

    Args:
        root: the experiment's folder.
        experiment: its name.
        found: what its last stage found.
        provenance: versions, seeds, digests, machine.

    Returns:
        The file written.
    """
    records = [flat_record(encode(score, f"cures[{place}]")) for place, score in enumerate(found.cures)]
    columns = dict.fromkeys(name for record in records for name in record)
    content = {
        "experiment": experiment,
        "faker": found.faker,
        "twin": found.twin,
        "cures": [{name: record.get(name) for name in columns} for record in records],
        "provenance": dict(provenance),
    }
    text = json.dumps(encode(content, "results"), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(root / RESULTS_NAME, f"{text}\n".encode())
    return root / RESULTS_NAME


def is_cures_results(path: Path) -> bool:
    """Whether a `results.json` is of an experiment of cures."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        # Whoever reads it says what is wrong with it.
        return False
    return isinstance(content, dict) and "cures" in content
