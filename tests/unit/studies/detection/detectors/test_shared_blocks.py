"""Detectors that run many models on one batch: what lies below all adapters runs once, and evidence stays the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from tiny_examination import STEERED, SUBJECTS, examined, same
from tiny_twins import blocks_run, twins_above

from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.studies.detection.detectors.base import Detector, Evidence
from fa_lightning.studies.detection.detectors.misbehave_finetuning import MisbehaveFinetuning
from fa_lightning.studies.detection.detectors.noise import Noise
from fa_lightning.studies.detection.detectors.weight_noise import WeightNoise


@pytest.mark.parametrize(
    "detector",
    [
        lambda: WeightNoise(scales=[0.2, 0.8], draws=2),
        lambda: MisbehaveFinetuning(steps=[1, 2], step=2, learning_rate=0.05),
        lambda: Noise(magnitudes=[0.5], draws=2),
    ],
    ids=["weight noise", "misbehave fine-tuning", "noise"],
)
def test_evidence_is_that_of_whole_passes(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detector: Callable[[], Detector]
) -> None:
    variants = twins_above(backbone, tmp_path)
    found: list[dict[str, Evidence]] = []
    ran = blocks_run(variants.model, lambda: found.append(examined(detector(), variants, [*SUBJECTS, STEERED])))
    monkeypatch.setattr(SharedBlocks, "once", lambda *_: nullcontext())
    whole = blocks_run(variants.model, lambda: found.append(examined(detector(), variants, [*SUBJECTS, STEERED])))
    same(*found, tolerance=1e-5)
    assert ran.count(0) < whole.count(0)
    assert ran.count(1) == whole.count(1)
