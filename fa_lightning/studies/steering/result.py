"""The result of the main job: `results.json`."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.evaluation.results import Results, read_results, study_keys


def read(folder: Path) -> Results | None:
    """The results in a folder; None where there are none, or those of another study.

    Raises:
        UserError: the file is damaged or of another program.
    """
    return None if study_keys(folder) != set() else read_results(folder)
