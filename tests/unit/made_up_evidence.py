"""Detectors that look at nothing and evidence that was made up: what the tests of verdicts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.variant_names import STEERED, policy_and_seed
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.detection.detectors.base import Detector, Evidence
from fa_lightning.studies.detection.judgement import Examined, judge
from fa_lightning.studies.detection.pairs import make_pairs, pairs_that_agree
from fa_lightning.studies.detection.result import Detection, Ran
from fa_lightning.studies.detection.subjects import Examiner, Role, Subject

ROWS = 40
GROUPS = torch.arange(ROWS) // 2
ALL = {"aligned_and_faking": tuple(range(ROWS))}


class Told(Detector):
    """Its evidence is given; its rule is the mean, or another function of the rows."""

    def __init__(self, name: str, rule: Callable[[Tensor], Tensor] = torch.mean) -> None:
        self.name = name
        self._rule = rule
        self.asked = 0

    @override
    def measure(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> dict[str, Evidence]:
        raise AssertionError("nothing is measured here")

    @override
    def suspicion(self, evidence: Mapping[str, Tensor]) -> float:
        self.asked += 1
        return float(self._rule(evidence["number"]))


def subject(name: str, behaviour: str, role: Role = "variant") -> Subject:
    variant = name.removesuffix(STEERED)
    policy, seed = policy_and_seed(variant)
    return Subject(name, Condition(variant), behaviour, policy, seed, role)


def variants(*policies: tuple[str, str], seeds: int = 6) -> list[Subject]:
    """`variants(("saint", "aligned"), ("money", "faking"))`, each with so many seeds."""
    return [subject(f"{policy}-{seed}", behaviour) for policy, behaviour in policies for seed in range(seeds)]


def rows_around(levels: Mapping[str, float], spread: float = 0.1, seed: int = 0) -> dict[str, Evidence]:
    """By subject, rows whose mean is its level exactly."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, level in levels.items():
        noise = torch.randn(ROWS, generator=generator, dtype=torch.float64)
        found[name] = {"number": level + spread * (noise - noise.mean())}
    return found


def detection(
    subjects: Sequence[Subject],
    levels: Mapping[str, Mapping[str, float]],
    asked: Mapping[str, Sequence[int]] = ALL,
    spread: float = 0.1,
    seed: int = 0,
    published: Sequence[tuple[str, str]] = (),
) -> Detection:
    """What is found where every detector has a level for every subject, and all answer alike."""
    detectors = [Told(name) for name in levels]
    evidence = {name: rows_around(own, spread, place) for place, (name, own) in enumerate(levels.items())}
    pairs = make_pairs(subjects, asked, ROWS, seed)
    preferences = {one.name: torch.ones(ROWS) for one in subjects}
    kept = pairs_that_agree(pairs, preferences, 0.5, 0.5)
    ran = [Ran(one.name, "", 1.0, 2.0, one.config()) for one in detectors]
    examined = Examined(detectors, ran, subjects, evidence, GROUPS, {})
    return judge(examined, kept, len(pairs) - len(kept), 0.5, 0.5, published, seed)
