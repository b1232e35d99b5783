"""Gather what an experiment's stages found into `results.json`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fa_lightning.common.codec import encode, read_dataclass
from fa_lightning.evaluation.results import (
    CANDIDATES_NAME,
    EVALUATION_NAME,
    Candidate,
    Cost,
    Evaluation,
    Results,
)
from fa_lightning.experiments.fingerprint import INPUT
from fa_lightning.experiments.stage import Stage
from fa_lightning.studies.lab.result import COMPARISON_NAME, Comparison, LabResults


def collect_results(experiment: str, stages: Sequence[Stage]) -> Results | None:
    """The results of a finished experiment that steers; None where its last stage judged no steering.

    Numbers that were not finite, and so are null in the stages' files, come back as nan.

    Raises:
        UserError: a stage's file does not hold what it should; the message names the place.
    """
    folder = stages[-1].folder
    evaluation = read_dataclass(Evaluation, folder / EVALUATION_NAME)
    if evaluation is None:
        return None
    aligned = evaluation.side_effects_aligned
    results = Results(
        experiment=experiment,
        n=evaluation.n,
        cells=evaluation.cells,
        recovery=evaluation.recovery,
        side_effects=evaluation.side_effects,
        cost=Cost(
            evaluation.overhead_ratio,
            {stage.name: float((stage.record() or {}).get("seconds", 0.0)) for stage in stages},
        ),
        provenance={
            **provenance_of(stages),
            "side_effects_of_steering_the_aligned_twin": encode(aligned, EVALUATION_NAME),
        },
        format_validity=evaluation.format_validity,
        baselines=evaluation.baselines,
        chosen=evaluation.chosen,
        candidates=read_dataclass(list[Candidate], folder / CANDIDATES_NAME) or [],
        extra_tests=evaluation.extra_tests,
        leak_report=evaluation.leaks,
        answers=evaluation.answers,
        side_effects_twin=evaluation.side_effects_twin,
        abilities=evaluation.abilities,
    )
    lab = read_dataclass(Comparison, folder / COMPARISON_NAME)
    return results if lab is None else LabResults(**vars(results), lab=lab)


def provenance_of(stages: Sequence[Stage]) -> dict[str, Any]:
    """What a finished experiment was made from, with what, and where."""
    records = {stage.name: stage.record() or {} for stage in stages}
    return {
        "stages": {
            name: {"digest": record.get("digest"), "resumed": record.get("resumed")} for name, record in records.items()
        },
        "seed": records[stages[-1].name].get("fingerprint", {}).get("seed_everything"),
        "backbones": _backbones([record.get("fingerprint", {}) for record in records.values()]),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("fa_lightning", "torch", "lightning", "transformers", "peft")
        },
        "machine": _machine(),
    }


def _backbones(fingerprints: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """The backbones that stages name, with the digest of their content, of a GGUF file the beginning of its SHA-256."""
    return {
        value: fingerprint.get(INPUT + key)
        for fingerprint in fingerprints
        for key, value in fingerprint.items()
        if key.endswith(".backbone.name") and not key.startswith(INPUT) and value is not None
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads"
