"""A finished run of a study, and the results of one that steers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa_lightning.common.codec import encode, read_dataclass
from fa_lightning.evaluation.results import (
    CANDIDATES_NAME,
    EVALUATION_NAME,
    Candidate,
    Cost,
    Evaluation,
    Results,
)


@dataclass(frozen=True)
class StudyRun:
    """What a study's result is gathered from when its stages are done.

    Attributes:
        experiment: the base's name; with another model, that of both.
        folder: of the last stage.
        seconds: wall seconds by stage.
        provenance: versions, seeds, digests, machine.
    """

    experiment: str
    folder: Path
    seconds: dict[str, float]
    provenance: dict[str, Any]


def collect_results(run: StudyRun) -> Results | None:
    """The results of a study that steers; None where its last stage judged no steering.

    Numbers that were not finite, and so are null in the stages' files, come back as nan.

    Raises:
        UserError: a stage's file does not hold what it should; the message names the place.
    """
    evaluation = read_dataclass(Evaluation, run.folder / EVALUATION_NAME)
    if evaluation is None:
        return None
    aligned = evaluation.side_effects_aligned
    return Results(
        experiment=run.experiment,
        n=evaluation.n,
        cells=evaluation.cells,
        recovery=evaluation.recovery,
        side_effects=evaluation.side_effects,
        cost=Cost(evaluation.overhead_ratio, run.seconds),
        provenance={
            **run.provenance,
            "side_effects_of_steering_the_aligned_twin": encode(aligned, EVALUATION_NAME),
        },
        format_validity=evaluation.format_validity,
        baselines=evaluation.baselines,
        chosen=evaluation.chosen,
        candidates=read_dataclass(list[Candidate], run.folder / CANDIDATES_NAME) or [],
        extra_tests=evaluation.extra_tests,
        leak_report=evaluation.leaks,
        answers=evaluation.answers,
        side_effects_twin=evaluation.side_effects_twin,
        abilities=evaluation.abilities,
        answered_by=evaluation.answered_by,
    )
