"""What a finished study leaves for its reader: its result with its provenance in one file, and its tables printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fa_lightning.common.codec import encode
from fa_lightning.common.files import write_atomically
from fa_lightning.evaluation.results import RESULTS_NAME, Results, write_results
from fa_lightning.reports.terminal import print_tables
from fa_lightning.studies.lab.result import LabResults
from fa_lightning.studies.registry import STUDIES, Study


def finish_study(
    root: Path,
    folder: Path,
    title: str,
    results: Results | None,
    provenance: Mapping[str, Any],
    console: Console | None = None,
    is_shown: bool = False,
) -> Path | None:
    """Write `results.json` of a finished study, and print its tables.

    Args:
        root: the study's folder.
        folder: of its last stage.
        title: what the tables are headed by.
        results: of a study that steers; None for others, whose result is in `folder`.
        provenance: versions, seeds, digests, machine.
        console: where to print; the terminal if None.
        is_shown: whether the last stage has run just now, so that some studies have printed their tables already.

    Returns:
        The file written; None where there is no result.

    Raises:
        UserError: the result is damaged.
    """
    if results is not None:
        print_study(STUDIES["lab" if isinstance(results, LabResults) else "steering"], results, title, console)
        return write_results(root, results)
    judged = _judged_study(folder)
    if judged is None:
        return None
    study, result = judged
    if not (is_shown and study.shows_itself):
        print_study(study, result, title, console)
    return write_study_results(root, study, result, provenance)


def write_study_results(root: Path, study: Study, result: Any, provenance: Mapping[str, Any]) -> Path:
    """Write `results.json` of a study that is not `Results`: its result as it is, and what it was made from.

    Args:
        root: the study's folder.
        study: its row in the registry.
        result: as its last stage wrote it.
        provenance: versions, seeds, digests, machine.

    Returns:
        The file written.
    """
    content = {"experiment": root.name, "study": study.name, study.name: result, "provenance": dict(provenance)}
    text = json.dumps(encode(content, "results"), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(root / RESULTS_NAME, f"{text}\n".encode())
    return root / RESULTS_NAME


def print_study(study: Study, result: Any, experiment: str, console: Console | None = None) -> None:
    """Print a study's tables, at most 80 columns wide."""
    print_tables(study.tables(result).values(), console, experiment)


def _judged_study(folder: Path) -> tuple[Study, Any] | None:
    """The study whose result a stage has left in its folder, and that result; None where there is none.

    Raises:
        UserError: the result is damaged.
    """
    for study in STUDIES.values():
        result = study.read(folder) if study.is_of_stage else None
        if result is not None:
            return study, result
    return None
