"""Gather what an experiment's stages found into `results.json`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from fa_lightning.common.codec import decode
from fa_lightning.evaluation import results as shapes
from fa_lightning.evaluation.estimates import CellCounts, CellPair, Estimate, SideEffects
from fa_lightning.experiments.stage import Stage
from fa_lightning.studies.lab.result import Lab

T = TypeVar("T")


def collect_results(experiment: str, stages: Sequence[Stage]) -> shapes.Results | None:
    """The results of a finished experiment; None where its last stage judged no steering.

    Numbers that were not finite, and so are null in the stages' files, come back as nan.

    Raises:
        UserError: a stage's file does not hold what it should; the message names the place.
    """
    last = stages[-1]
    path = last.folder / "evaluation.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    seconds = {stage.name: float((stage.record() or {}).get("seconds", 0.0)) for stage in stages}
    candidates = json.loads((last.folder / "candidates.json").read_text(encoding="utf-8"))
    lab = last.folder / "lab.json"

    def read(kind: type[T], name: str) -> T:
        value: T = decode(kind, found[name], f"{path}: {name}")
        return value

    return shapes.Results(
        experiment=experiment,
        n=read(CellCounts, "n"),
        cells=read(dict[str, CellPair], "cells"),
        recovery=read(Estimate, "recovery"),
        side_effects=read(SideEffects, "side_effects"),
        cost=shapes.Cost(read(float, "overhead_ratio"), seconds),
        provenance={
            **provenance_of(stages),
            "side_effects_of_steering_the_aligned_twin": found["side_effects_aligned"],
        },
        format_validity=read(dict[str, float], "format_validity"),
        baselines={name: _baseline(baseline, f"{path}: {name}") for name, baseline in found["baselines"].items()},
        chosen=read(shapes.Chosen, "chosen"),
        candidates=decode(list[shapes.Candidate], candidates, f"{last.folder / 'candidates.json'}"),
        extra_tests={name: _extra_test(extra, f"{path}: {name}") for name, extra in found["extra_tests"].items()},
        leak_report=found["leaks"],
        answers=decode(dict[str, dict[str, tuple[int, int, int]]], found.get("answers", {}), f"{path}: answers"),
        lab=decode(Lab, json.loads(lab.read_text(encoding="utf-8")), str(lab)) if lab.is_file() else None,
    )


def provenance_of(stages: Sequence[Stage]) -> dict[str, Any]:
    """What a finished experiment was made from, with what, and where."""
    records = {stage.name: stage.record() or {} for stage in stages}
    return {
        "stages": {
            name: {"digest": record.get("digest"), "resumed": record.get("resumed")} for name, record in records.items()
        },
        "seed": records[stages[-1].name].get("fingerprint", {}).get("seed_everything"),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("fa_lightning", "torch", "lightning", "transformers", "peft")
        },
        "machine": _machine(),
    }


def _baseline(found: dict[str, Any], where: str) -> shapes.Baseline:
    """A baseline; cheating ones may have no side effects."""
    kept = {name: found[name] for name in ("oversight", "no_oversight", "side_effects") if found.get(name) is not None}
    baseline: shapes.Baseline = decode(shapes.Baseline, kept, where)
    return baseline


def _extra_test(found: dict[str, Any], where: str) -> shapes.ExtraTest:
    """Another test set; what the report does not show is left out."""
    kept = {name: found[name] for name in ("n", "cells", "recovery")}
    extra: shapes.ExtraTest = decode(shapes.ExtraTest, kept, where)
    return extra


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads"
