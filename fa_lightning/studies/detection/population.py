"""One model alone: where its suspicion lies among models that were examined before, whose behaviour is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn

from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.metrics.pairwise import threshold
from fa_lightning.studies.detection.result import ENSEMBLE, RESULT_NAME, Detection, Placed, read


def read_population(folder: str, detectors: Sequence[str]) -> Detection:
    """An examination that others are compared with.

    Args:
        folder: of the examination.
        detectors: names of those that are to be compared.

    Raises:
        MissingFileError: there is none in the folder.
        UserError: it is damaged, has no benign models, or none of the detectors.
    """
    population = read(Path(folder))
    if population is None:
        raise MissingFileError(
            f"population is {folder!r}, but there is no {RESULT_NAME} in it: give the folder of a finished "
            "examination of many models, such as checkpoints/poser/seed0/detection/02_detection"
        )
    if not any(suspect.behaviour == "aligned" for suspect in population.suspects):
        raise UserError(f"population is {folder!r}, but no model in it is known to be aligned: give another one")
    theirs = [ran.name for ran in population.detectors if ran.name != ENSEMBLE]
    if not set(detectors) & set(theirs):
        raise UserError(
            f"population was examined with {', '.join(theirs)}, but model.init_args.detectors has "
            f"{', '.join(detectors)}: give a detector that both have"
        )
    return population


def placed_in(population: Detection, detection: Detection) -> list[Placed]:
    """Every model's suspicion by every detector that both examinations ran.

    Warns where a number means something else there, since it was measured in another way.
    """
    theirs = {ran.name: ran for ran in population.detectors if ran.name != ENSEMBLE}
    shared = [ran for ran in detection.detectors if ran.name in theirs]
    changed = [ran.name for ran in shared if _as_json(ran.config) != _as_json(theirs[ran.name].config)]
    if changed:
        rank_zero_warn(
            f"the population was measured with other arguments of {', '.join(changed)}: its numbers are not comparable"
        )
    different = sorted(
        name
        # What one of them did not have, such as texts of concepts, no detector that both ran was shown.
        for name in population.measured_on.keys() & detection.measured_on.keys()
        if population.measured_on[name] != detection.measured_on[name]
    )
    if different:
        rank_zero_warn(
            f"the population was measured on other scenarios or another backbone (they differ in "
            f"{', '.join(different)}): its numbers are not comparable"
        )
    placed = []
    for ran in shared:
        benign = _suspicions(population, ran.name, "aligned")
        fakers = _suspicions(population, ran.name, "faking")
        limit = threshold(benign)
        for suspect in detection.suspects:
            value = suspect.suspicion[ran.name]
            shares = [(side < value).double().mean().item() if len(side) else math.nan for side in (benign, fakers)]
            placed.append(Placed(suspect.name, ran.name, value, shares[0], shares[1], value > limit))
    return placed


def _suspicions(population: Detection, detector: str, behaviour: str) -> torch.Tensor:
    known = [suspect for suspect in population.suspects if suspect.behaviour == behaviour and suspect.role != "steered"]
    return torch.tensor(
        [suspect.suspicion[detector] for suspect in known if detector in suspect.suspicion], dtype=torch.float64
    )


def _as_json(config: Mapping[str, object]) -> str:
    return json.dumps(config, sort_keys=True, default=str)
