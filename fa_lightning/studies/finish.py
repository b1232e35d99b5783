"""What a finished study leaves for its reader: its result with its provenance in one file, and its tables printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from fa_lightning.common.codec import encode
from fa_lightning.common.files import write_atomically
from fa_lightning.evaluation.collect import StudyRun
from fa_lightning.evaluation.results import RESULTS_NAME, write_results
from fa_lightning.reports.terminal import print_tables
from fa_lightning.studies.registry import STUDIES, Study


def finish_study(
    root: Path, run: StudyRun, title: str, console: Console | None = None, is_shown: bool = False
) -> tuple[Path, Any] | None:
    """Write `results.json` of a finished study, and print its tables.

    Args:
        root: the study's folder.
        run: its stages' run.
        title: what the tables are headed by.
        console: where to print; the terminal if None.
        is_shown: whether the last stage has run just now, so that some studies have printed their tables already.

    Returns:
        The file written and the result in it; None where there is no result.

    Raises:
        UserError: the result is damaged.
    """
    for study in reversed(STUDIES.values()):
        result = study.collect(run)
        if result is not None:
            if not (is_shown and study.shows_itself):
                print_study(study, result, title, console)
            return _write(root, study, result, run), result
    return None


def _write(root: Path, study: Study, result: Any, run: StudyRun) -> Path:
    """Write a study's `results.json`: its own file, or what is in a stage's with what that was made from."""
    if not study.is_of_stage:
        return write_results(root, result)
    content = {
        "experiment": run.experiment,
        "study": study.name,
        study.name: result,
        "provenance": run.provenance,
    }
    text = json.dumps(encode(content, "results"), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(root / RESULTS_NAME, f"{text}\n".encode())
    return root / RESULTS_NAME


def print_study(study: Study, result: Any, experiment: str, console: Console | None = None) -> None:
    """Print a study's tables, at most 80 columns wide."""
    print_tables(study.tables(result).values(), console, experiment)
