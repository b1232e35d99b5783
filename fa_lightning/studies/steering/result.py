"""The result of the main job: `results.json`."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.evaluation.collect import StudyRun, collect_results
from fa_lightning.evaluation.results import Results, read_results, study_keys


def collect(run: StudyRun) -> Results | None:
    """What a finished run's stages found; None where they judged no steering.

    Raises:
        UserError: a stage's file is damaged; the message names the place.
    """
    return collect_results(run)


def read(folder: Path) -> Results | None:
    """The results in a folder; None where there are none, or those of another study.

    Raises:
        UserError: the file is damaged or of another program.
    """
    return None if study_keys(folder) != set() else read_results(folder)
