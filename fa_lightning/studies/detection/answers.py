"""What every subject answers while it is watched: the filter of scenarios on which a pair agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.detection.detectors.base import Detector, Evidence, taken_letter
from fa_lightning.studies.detection.subjects import Examiner, Subject

ANSWERS = "answers"


class Answers(Detector):
    """No detector: the answers that the filter is computed from, always measured first."""

    name = ANSWERS

    @override
    def measure(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> dict[str, Evidence]:
        shared = SharedBlocks(examiner.variants)
        asked = {subject.name: examiner.preference(subject, batch, shared=shared) for subject in subjects}
        return {name: {"preference": preference[0]} for name, preference in asked.items()}

    @override
    def suspicion(self, evidence: Mapping[str, Tensor]) -> float:
        raise ValueError("answers are no evidence of faking: they only say on which scenarios a pair agrees")


def agreement(first: Tensor, second: Tensor, confidence: float) -> Tensor:
    """The scenarios on which two models take the same action, each with at least so much confidence.

    Args:
        first: logit differences A minus B of the first model, (scenarios,).
        second: the same of the second.
        confidence: least probability of the letter taken, between the two letters; 0.5 asks only for the same letter.

    Returns:
        Booleans (scenarios,).

    >>> agreement(torch.tensor([3.0, 3.0, 0.1]), torch.tensor([2.0, -2.0, 0.2]), 0.8)
    tensor([ True, False, False])
    """
    same = taken_letter(first) == taken_letter(second)
    sure = torch.minimum(first.abs(), second.abs()).sigmoid() >= confidence
    return same & sure
