"""Finds the results of studies below a folder, which may be an experiment's, a study's or a stage's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa_lightning.common.files import by_number
from fa_lightning.errors import MissingFileError
from fa_lightning.evaluation.results import MAKING_COMMAND
from fa_lightning.studies.registry import STUDIES, Study

STAGE_RECORD = "stage.json"
DEPTH = 4
"""Folders between the one that is named and a result: a base, a seed, a study and a stage."""
SEED = re.compile(r"^seed(\d+)$")


@dataclass(frozen=True)
class StudyResult:
    """A study's result, and where it comes from.

    Attributes:
        study: its row in the registry.
        result: as its stage wrote it.
        experiment: the base, or the folder of an experiment that has no chains.
        name: of the study's folder, since several studies may write the same kind of result.
        stage: the stage's name; empty for a result of a whole study.
        seed: of the chain; None where the folders name none.
    """

    study: Study
    result: Any
    experiment: str
    name: str
    stage: str = ""
    seed: int | None = None

    @property
    def chains(self) -> tuple[str, str, str]:
        """What several chains of the same study have in common."""
        return (self.experiment, self.name, self.stage)


def find_results(folder: Path) -> list[StudyResult]:
    """Every study's results in `folder`, or else in its subfolders, in the registry's order.

    Args:
        folder: of a stage, a study, a chain, a base or several of them.

    Raises:
        MissingFileError: there is no such folder, or no result in it.
        UserError: a result is broken or of another program.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder: name one that an experiment has written, as `report DIR`")
    results = [result for study in STUDIES.values() for result in _results_of(study, folder)]
    if not results and (folder / STAGE_RECORD).is_file():
        # A stage that judges nothing by itself belongs to a study that does.
        whole = [study for study in STUDIES.values() if not study.is_of_stage]
        results = [result for study in whole for result in _read(study, [folder.resolve().parent / study.result_name])]
    if not results:
        names = ", ".join(dict.fromkeys(study.result_name for study in STUDIES.values()))
        raise MissingFileError(
            f"{folder} holds no result of a study ({names}), nor do its subfolders: name the folder of an experiment, "
            f"a study or a stage, or run one first with `{MAKING_COMMAND}`"
        )
    return results


def _results_of(study: Study, folder: Path) -> list[StudyResult]:
    """Those that lie nearest to `folder`."""
    for depth in range(DEPTH + 1):
        files = sorted(folder.glob("*/" * depth + study.result_name), key=by_number)
        results = _read(study, files)
        if results:
            return results
    return []


def _read(study: Study, files: Sequence[Path]) -> list[StudyResult]:
    results = []
    for file in files:
        result = study.read(file.parent) if file.is_file() else None
        if result is None:
            continue
        folder = file.resolve().parent
        root = folder.parent if study.is_of_stage else folder
        seed = SEED.match(root.parent.name)
        results.append(
            StudyResult(
                study,
                result,
                experiment=root.parent.parent.name if seed else root.name,
                name=root.name if seed else study.name,
                stage=folder.name if study.is_of_stage else "",
                seed=int(seed[1]) if seed else None,
            )
        )
    return results
